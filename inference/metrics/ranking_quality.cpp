#include "inference/metrics/ranking_quality.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"

namespace expctr {
namespace {

void check(const char* metric, std::span<const double> scores, std::span<const std::uint8_t> labels) {
  if (scores.size() != labels.size()) throw Error(fmt::format("{}: {} scores for {} labels", metric, scores.size(), labels.size()));
  for (std::size_t i = 0; i < scores.size(); ++i)
    if (std::isnan(scores[i])) throw Error(fmt::format("{}: score {} is not a number", metric, i), "the model diverged");
}

// Adds up, over runs of equal scores, the pairs that the order gets right; halves are counted as wholes of 2.
struct PairCount {
  std::uint64_t positives = 0, negatives = 0, twice_right = 0;
  void add_run(std::uint64_t run_positives, std::uint64_t run_negatives) {
    twice_right += run_positives * (2 * negatives + run_negatives);
    positives += run_positives;
    negatives += run_negatives;
  }
  double auc() const {
    if (positives == 0 || negatives == 0) return std::numeric_limits<double>::quiet_NaN();
    return static_cast<double>(twice_right) / (2.0 * static_cast<double>(positives) * static_cast<double>(negatives));
  }
};

}  // namespace

SortedScores::SortedScores(std::span<const double> scores, std::span<const std::uint8_t> labels)
    : order_(scores.size()), labels_(labels.begin(), labels.end()) {
  check("auc", scores, labels);
  std::iota(order_.begin(), order_.end(), 0u);
  std::sort(order_.begin(), order_.end(),
            [&](std::uint32_t a, std::uint32_t b) { return scores[a] != scores[b] ? scores[a] < scores[b] : a < b; });
  for (std::size_t i = 1; i <= order_.size(); ++i)
    if (i == order_.size() || scores[order_[i]] != scores[order_[i - 1]]) group_end_.push_back(static_cast<std::uint32_t>(i));
}

double SortedScores::auc(std::span<const std::uint32_t> weights) const {
  if (weights.size() != order_.size()) throw Error(fmt::format("auc: {} weights for {} rows", weights.size(), order_.size()));
  PairCount count;
  std::size_t i = 0;
  for (const std::uint32_t end : group_end_) {
    std::uint64_t by_label[2] = {0, 0};
    for (; i < end; ++i) by_label[labels_[order_[i]] != 0] += weights[order_[i]];
    count.add_run(by_label[1], by_label[0]);
  }
  return count.auc();
}

std::optional<double> auc(std::span<const double> scores, std::span<const std::uint8_t> labels) {
  const SortedScores sorted(scores, labels);
  const double value = sorted.auc(std::vector<std::uint32_t>(scores.size(), 1));
  return std::isnan(value) ? std::nullopt : std::optional(value);
}

GroupAuc group_auc(std::span<const double> scores, std::span<const std::uint8_t> labels, std::span<const std::int64_t> users,
                   GroupWeight weight) {
  check("gauc", scores, labels);
  if (users.size() != labels.size()) throw Error(fmt::format("gauc: {} users for {} labels", users.size(), labels.size()));
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    if (users[a] != users[b]) return users[a] < users[b];
    return scores[a] != scores[b] ? scores[a] < scores[b] : a < b;
  });
  GroupAuc result;
  double sum = 0, total = 0;
  for (std::size_t begin = 0; begin < order.size();) {
    const std::int64_t user = users[order[begin]];
    PairCount count;
    std::size_t i = begin;
    while (i < order.size() && users[order[i]] == user) {
      const double score = scores[order[i]];
      std::uint64_t by_label[2] = {0, 0};
      for (; i < order.size() && users[order[i]] == user && scores[order[i]] == score; ++i) ++by_label[labels[order[i]] != 0];
      count.add_run(by_label[1], by_label[0]);
    }
    const double value = count.auc();
    result.users.push_back(user);
    result.per_user.push_back(std::isnan(value) ? -1.0 : value);
    if (!std::isnan(value)) {
      const double share = weight == GroupWeight::rows        ? static_cast<double>(i - begin)
                           : weight == GroupWeight::positives ? static_cast<double>(count.positives)
                                                              : 1.0;
      sum += value * share;
      total += share;
      result.rows += static_cast<std::int64_t>(i - begin);
    }
    begin = i;
  }
  result.value = total > 0 ? sum / total : std::numeric_limits<double>::quiet_NaN();
  return result;
}

double logloss(std::span<const double> probabilities, std::span<const std::uint8_t> labels, double clip) {
  check("logloss", probabilities, labels);
  if (labels.empty()) throw Error("logloss: no rows");
  double sum = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const double p = std::clamp(probabilities[i], clip, 1 - clip);
    sum -= labels[i] != 0 ? std::log(p) : std::log1p(-p);
  }
  return sum / static_cast<double>(labels.size());
}

}  // namespace expctr
