#include "engine/nn/init.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/philox.h"

namespace expctr {

namespace {

RandomKey key_of(const Initialiser& from, std::string_view name) { return random_key(from.seed, "init/" + std::string(name)); }

/// Two uniform numbers for values 2 pair and 2 pair + 1; `attempt` counts draws for the same place.
std::pair<double, double> uniform_pair(RandomKey key, std::uint64_t pair, std::uint32_t attempt) {
  const RandomBits bits = philox(key, {static_cast<std::uint32_t>(pair), static_cast<std::uint32_t>(pair >> 32), attempt, 0});
  return {uniform_double(bits.word[0], bits.word[1]), uniform_double(bits.word[2], bits.word[3])};
}

/// Box and Muller: two standard normal numbers.
std::pair<double, double> normal_pair(std::pair<double, double> u) {
  const double radius = std::sqrt(-2.0 * std::log1p(-u.first)), angle = 2.0 * std::numbers::pi * u.second;
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

/// `draw(pair, attempt)` gives two values.
template <class Draw>
std::vector<double> draw_values(std::int64_t n, Draw draw) {
  std::vector<double> values(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < values.size(); i += 2) {
    const auto [first, second] = draw(i / 2);
    values[i] = first;
    if (i + 1 < values.size()) values[i + 1] = second;
  }
  return values;
}

std::vector<double> standard_normal(RandomKey key, std::int64_t n, std::uint32_t attempt) {
  return draw_values(n, [=](std::uint64_t pair) { return normal_pair(uniform_pair(key, pair, attempt)); });
}

Tensor placed(const Initialiser& from, const std::vector<double>& values, const Shape& shape) {
  if (from.dtype == DType::f64) return Tensor::of(values, shape, from.device);
  if (from.dtype != DType::f32)
    throw Error(fmt::format("parameters of type {} are not initialised here", dtype_name(from.dtype)), "f32 or f64");
  return Tensor::of(std::vector<float>(values.begin(), values.end()), shape, from.device);
}

double dot(const double* a, const double* b, std::int64_t n) {
  constexpr int lanes = 8;
  double sums[lanes] = {};
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int lane = 0; lane < lanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  for (; i < n; ++i) sums[0] += a[i] * b[i];
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

/// Makes `count` <= `width` rows orthonormal. Each is freed of the earlier ones twice: the second time takes what rounding left of the
/// first.
void orthonormalise(std::vector<double>& rows, std::int64_t count, std::int64_t width, RandomKey key) {
  for (std::int64_t r = 0; r < count; ++r) {
    double* row = rows.data() + r * width;
    for (std::uint32_t attempt = 1;; ++attempt) {
      const double before = std::sqrt(dot(row, row, width));
      for (int pass = 0; pass < 2; ++pass) {
        for (std::int64_t i = 0; i < r; ++i) {
          const double* other = rows.data() + i * width;
          const double share = dot(row, other, width);
          for (std::int64_t c = 0; c < width; ++c) row[c] -= share * other[c];
        }
      }
      const double norm = std::sqrt(dot(row, row, width));
      if (norm > 1e-9 * before) {
        for (std::int64_t c = 0; c < width; ++c) row[c] /= norm;
        break;
      }
      // The row lies in the space of the earlier ones, which has no chance in exact arithmetic: another one.
      const std::vector<double> fresh = standard_normal(key, (r + 1) * width, attempt);
      std::copy(fresh.end() - width, fresh.end(), row);
    }
  }
}

double normal_distribution(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }

}  // namespace

Fans fans_of(const Shape& shape) {
  if (shape.rank() == 0) return {1, 1};
  std::int64_t field = 1;
  for (int i = 2; i < shape.rank(); ++i) field *= shape[i];
  return {(shape.rank() > 1 ? shape[1] : 1) * field, shape[0] * field};
}

Tensor Initialiser::normal(std::string_view name, const Shape& shape, double deviation) const {
  std::vector<double> values = standard_normal(key_of(*this, name), shape.size(), 0);
  for (double& value : values) value *= deviation;
  return placed(*this, values, shape);
}

Tensor Initialiser::truncated_normal(std::string_view name, const Shape& shape, double deviation, double low, double high) const {
  if (!(normal_distribution(high) - normal_distribution(low) >= 0.01)) {
    throw UsageError(fmt::format("truncated_normal: bounds {} and {} deviations", low, high),
                     "choose bounds that hold at least 1 % of a normal distribution");
  }
  const RandomKey key = key_of(*this, name);
  const auto inside = [&](double value) { return value >= low && value <= high; };
  const std::vector<double> values = draw_values(shape.size(), [&](std::uint64_t pair) {
    // Each of the two places takes the first draw of its own that falls inside.
    std::pair<double, double> result;
    bool first = false, second = false;
    for (std::uint32_t attempt = 0; !first || !second; ++attempt) {
      const auto [a, b] = normal_pair(uniform_pair(key, pair, attempt));
      if (!first && inside(a)) {
        result.first = deviation * a;
        first = true;
      }
      if (!second && inside(b)) {
        result.second = deviation * b;
        second = true;
      }
    }
    return result;
  });
  return placed(*this, values, shape);
}

Tensor Initialiser::uniform(std::string_view name, const Shape& shape, double bound) const {
  const RandomKey key = key_of(*this, name);
  return placed(*this,
                draw_values(shape.size(),
                            [=](std::uint64_t pair) {
                              const auto [u, v] = uniform_pair(key, pair, 0);
                              return std::pair(bound * (2.0 * u - 1.0), bound * (2.0 * v - 1.0));
                            }),
                shape);
}

Tensor Initialiser::uniform(std::string_view name, const Shape& shape, double low, double high) const {
  const RandomKey key = key_of(*this, name);
  return placed(*this,
                draw_values(shape.size(),
                            [=](std::uint64_t pair) {
                              const auto [u, v] = uniform_pair(key, pair, 0);
                              return std::pair(low + (high - low) * u, low + (high - low) * v);
                            }),
                shape);
}

Tensor Initialiser::xavier_normal(std::string_view name, const Shape& shape, double gain) const {
  const Fans fans = fans_of(shape);
  return normal(name, shape, gain * std::sqrt(2.0 / static_cast<double>(fans.inputs + fans.outputs)));
}

Tensor Initialiser::xavier_uniform(std::string_view name, const Shape& shape, double gain) const {
  const Fans fans = fans_of(shape);
  return uniform(name, shape, gain * std::sqrt(6.0 / static_cast<double>(fans.inputs + fans.outputs)));
}

Tensor Initialiser::he_normal(std::string_view name, const Shape& shape, double slope) const {
  return normal(name, shape, std::sqrt(2.0 / ((1.0 + slope * slope) * static_cast<double>(fans_of(shape).inputs))));
}

Tensor Initialiser::he_uniform(std::string_view name, const Shape& shape, double slope) const {
  return uniform(name, shape, std::sqrt(6.0 / ((1.0 + slope * slope) * static_cast<double>(fans_of(shape).inputs))));
}

Tensor Initialiser::kaiming_uniform(std::string_view name, const Shape& shape, std::int64_t fan_in) const {
  return uniform(name, shape, 1.0 / std::sqrt(static_cast<double>(fan_in)));
}

Tensor Initialiser::orthogonal(std::string_view name, const Shape& shape, double gain) const {
  const RandomKey key = key_of(*this, name);
  const std::int64_t rows = shape.rank() == 0 ? 1 : shape[0], columns = rows == 0 ? 0 : shape.size() / rows;
  const std::int64_t count = std::min(rows, columns), width = std::max(rows, columns);
  std::vector<double> basis = standard_normal(key, count * width, 0), values(static_cast<std::size_t>(rows * columns));
  orthonormalise(basis, count, width, key);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c)
      values[r * columns + c] = gain * (rows <= columns ? basis[r * width + c] : basis[c * width + r]);
  return placed(*this, values, shape);
}

Tensor Initialiser::constant(const Shape& shape, double value) const {
  Tensor tensor = Tensor::zeros(shape, dtype, device);
  if (value != 0.0) tensor.fill(value);
  return tensor;
}

}  // namespace expctr
