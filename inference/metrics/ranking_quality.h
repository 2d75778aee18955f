// How well scores order clicks: AUC, AUC per user, logloss (specs/ctr-models.md, section 4). All in float64.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace expctr {

/// AUC = P(score of a positive > score of a negative) + P(equal) / 2, over all pairs; O(n log n). nullopt with one class only.
/// Errors (Error): lengths differ, a score is NaN.
std::optional<double> auc(std::span<const double> scores, std::span<const std::uint8_t> labels);

/// The scores of one data set, sorted once: the AUC of a bootstrap sample then costs O(n).
class SortedScores {
 public:
  SortedScores(std::span<const double> scores, std::span<const std::uint8_t> labels);
  /// AUC where row i counts weights[i] times; NaN with one class only.
  double auc(std::span<const std::uint32_t> weights) const;

 private:
  std::vector<std::uint32_t> order_;      // rows by ascending score
  std::vector<std::uint32_t> group_end_;  // ends of the runs of equal scores in order_
  std::vector<std::uint8_t> labels_;      // by row
};

enum class GroupWeight {
  rows,       ///< FuxiCTR, the default everywhere here
  positives,  ///< RecBole
  equal
};

struct GroupAuc {
  double value = 0;                 ///< NaN when no user has two classes
  std::int64_t rows = 0;            ///< of the users that count
  std::vector<std::int64_t> users;  ///< ascending
  std::vector<double> per_user;     ///< -1 where a user has one class
};

/// gAUC = weighted mean of the AUC per user; users with one class are skipped, also in the denominator.
GroupAuc group_auc(std::span<const double> scores, std::span<const std::uint8_t> labels, std::span<const std::int64_t> users,
                   GroupWeight weight = GroupWeight::rows);

/// Mean of -(y ln p + (1 - y) ln(1 - p)) with p clipped to [clip, 1 - clip]. Errors (Error): no rows, NaN.
double logloss(std::span<const double> probabilities, std::span<const std::uint8_t> labels, double clip = 1e-7);

}  // namespace expctr
