#include "inference/metrics/leakage_probe.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "inference/metrics/ranking_quality.h"

namespace expctr {
namespace {

double dot(std::span<const double> a, std::span<const double> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

double sigmoid(double x) { return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x)); }

// ln(1 + exp(x)) without overflow.
double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

// The objective on columns with mean 0 and variance 1; the last parameter is the bias, which the ridge leaves alone.
class Objective {
 public:
  Objective(std::vector<double> columns, std::span<const std::uint8_t> labels, std::size_t width, double ridge)
      : x_(std::move(columns)), y_(labels), width_(width), ridge_(ridge), p_(labels.size()) {}

  double value(std::span<const double> w) const {
    double sum = 0;
    for (std::size_t i = 0; i < y_.size(); ++i) {
      const double logit = logit_of(w, i);
      sum += softplus(logit) - (y_[i] != 0 ? logit : 0);
    }
    return sum / rows() + ridge_ / 2 * dot(w.first(width_), w.first(width_));
  }

  // Also keeps the probabilities that hessian_times needs.
  std::vector<double> gradient(std::span<const double> w) {
    std::vector<double> result(width_ + 1, 0.0);
    for (std::size_t i = 0; i < y_.size(); ++i) {
      p_[i] = sigmoid(logit_of(w, i));
      add(result, i, (p_[i] - (y_[i] != 0)) / rows());
    }
    for (std::size_t k = 0; k < width_; ++k) result[k] += ridge_ * w[k];
    return result;
  }

  std::vector<double> hessian_times(std::span<const double> v) const {
    std::vector<double> result(width_ + 1, 0.0);
    for (std::size_t i = 0; i < y_.size(); ++i) add(result, i, p_[i] * (1 - p_[i]) * logit_of(v, i) / rows());
    // A whisper on the diagonal keeps the bias solvable when every probability is 0 or 1.
    for (std::size_t k = 0; k < width_; ++k) result[k] += ridge_ * v[k];
    for (std::size_t k = 0; k <= width_; ++k) result[k] += 1e-10 * v[k];
    return result;
  }

 private:
  double rows() const { return static_cast<double>(y_.size()); }
  double logit_of(std::span<const double> w, std::size_t i) const {
    return dot(w.first(width_), std::span(x_).subspan(i * width_, width_)) + w[width_];
  }
  void add(std::vector<double>& sum, std::size_t i, double factor) const {
    for (std::size_t k = 0; k < width_; ++k) sum[k] += factor * x_[i * width_ + k];
    sum[width_] += factor;
  }

  std::vector<double> x_;
  std::span<const std::uint8_t> y_;
  std::size_t width_;
  double ridge_;
  std::vector<double> p_;
};

double largest(std::span<const double> values) {
  double result = 0;
  for (const double value : values) result = std::max(result, std::abs(value));
  return result;
}

// Solves H d = -g by conjugate gradients.
std::vector<double> newton_direction(const Objective& objective, std::span<const double> gradient) {
  std::vector<double> direction(gradient.size(), 0.0), residual(gradient.size()), search;
  for (std::size_t k = 0; k < gradient.size(); ++k) residual[k] = -gradient[k];
  search = residual;
  double square = dot(residual, residual);
  const double target = square * 1e-12;
  for (std::size_t step = 0; step < 2 * gradient.size() && square > target && square > 0; ++step) {
    const std::vector<double> image = objective.hessian_times(search);
    const double curvature = dot(search, image);
    if (!(curvature > 0)) break;
    const double length = square / curvature;
    for (std::size_t k = 0; k < direction.size(); ++k) {
      direction[k] += length * search[k];
      residual[k] -= length * image[k];
    }
    const double next = dot(residual, residual);
    for (std::size_t k = 0; k < search.size(); ++k) search[k] = residual[k] + next / square * search[k];
    square = next;
  }
  return direction;
}

}  // namespace

LogisticProbe::LogisticProbe(std::span<const float> vectors, std::span<const std::uint8_t> labels, std::int64_t width,
                             const Options& options) {
  const auto columns = static_cast<std::size_t>(std::max<std::int64_t>(width, 0));
  const std::size_t rows = labels.size();
  if (width < 1 || rows == 0 || vectors.size() != rows * columns)
    throw Error(fmt::format("probe: {} numbers are not {} rows of {}", vectors.size(), rows, width));
  std::vector<double> mean(columns, 0.0), scale(columns, 0.0), standardised(vectors.size());
  for (std::size_t i = 0; i < vectors.size(); ++i) mean[i % columns] += vectors[i] / static_cast<double>(rows);
  for (std::size_t i = 0; i < vectors.size(); ++i)
    scale[i % columns] += std::pow(vectors[i] - mean[i % columns], 2) / static_cast<double>(rows);
  for (double& s : scale) s = s > 0 ? 1 / std::sqrt(s) : 0.0;  // a constant column says nothing
  for (std::size_t i = 0; i < vectors.size(); ++i) standardised[i] = (vectors[i] - mean[i % columns]) * scale[i % columns];

  Objective objective(std::move(standardised), labels, columns, options.ridge);
  std::vector<double> w(columns + 1, 0.0);
  double value = objective.value(w);
  for (iterations_ = 0;; ++iterations_) {
    const std::vector<double> gradient = objective.gradient(w);
    largest_gradient_ = largest(gradient);
    if (largest_gradient_ <= options.tolerance || iterations_ == options.max_iterations) break;
    const std::vector<double> direction = newton_direction(objective, gradient);
    const double slope = dot(direction, gradient);
    bool moved = false;
    for (double step = 1; step > 1e-10 && !moved; step /= 2) {
      std::vector<double> candidate = w;
      for (std::size_t k = 0; k < w.size(); ++k) candidate[k] += step * direction[k];
      const double candidate_value = objective.value(candidate);
      if (candidate_value <= value + 1e-4 * step * slope) {
        w = std::move(candidate);
        value = candidate_value;
        moved = true;
      }
    }
    if (!moved) break;  // as low as float64 can tell
  }
  weights_.resize(columns);
  bias_ = w[columns];
  for (std::size_t k = 0; k < columns; ++k) {
    weights_[k] = w[k] * scale[k];
    bias_ -= weights_[k] * mean[k];
  }
}

std::vector<double> LogisticProbe::logits(std::span<const float> vectors) const {
  const std::size_t width = weights_.size();
  if (vectors.size() % width != 0) throw Error(fmt::format("probe: {} numbers are no rows of {}", vectors.size(), width));
  std::vector<double> result(vectors.size() / width, bias_);
  for (std::size_t i = 0; i < result.size(); ++i)
    for (std::size_t k = 0; k < width; ++k) result[i] += weights_[k] * vectors[i * width + k];
  return result;
}

LeakageReport leakage_probe(std::span<const float> train_vectors, std::span<const std::uint8_t> train_labels,
                            std::span<const float> test_vectors, std::span<const std::uint8_t> test_labels, std::int64_t width,
                            const LogisticProbe::Options& options, int parts) {
  const auto measured = [](std::span<const double> scores, std::span<const std::uint8_t> labels) {
    return auc(scores, labels).value_or(std::numeric_limits<double>::quiet_NaN());
  };
  const LogisticProbe probe(train_vectors, train_labels, width, options);
  LeakageReport report;
  report.train_auc = measured(probe.logits(train_vectors), train_labels);
  report.test_auc = measured(probe.logits(test_vectors), test_labels);

  const auto columns = static_cast<std::size_t>(width), count = static_cast<std::size_t>(std::max(parts, 2));
  std::vector<double> held_out(train_labels.size());
  for (std::size_t part = 0; part < count && train_labels.size() > count; ++part) {
    std::vector<float> kept, left;
    std::vector<std::uint8_t> kept_labels;
    for (std::size_t row = 0; row < train_labels.size(); ++row) {
      const auto vector = train_vectors.subspan(row * columns, columns);
      std::vector<float>& side = row % count == part ? left : kept;
      side.insert(side.end(), vector.begin(), vector.end());
      if (row % count != part) kept_labels.push_back(train_labels[row]);
    }
    const std::vector<double> scores = LogisticProbe(kept, kept_labels, width, options).logits(left);
    for (std::size_t i = 0; i < scores.size(); ++i) held_out[i * count + part] = scores[i];
  }
  report.held_out_train_auc = train_labels.size() > count ? measured(held_out, train_labels) : std::numeric_limits<double>::quiet_NaN();
  return report;
}

}  // namespace expctr
