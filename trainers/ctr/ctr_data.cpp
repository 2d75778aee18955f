#include "trainers/ctr/ctr_data.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "inference/metrics/ranking_quality.h"

namespace expctr {

std::vector<std::uint8_t> CtrData::labels_of(std::span<const std::int32_t> of) const {
  std::vector<std::uint8_t> result;
  for (const std::int32_t row : of) result.push_back(labels[static_cast<std::size_t>(row)]);
  return result;
}

std::vector<std::int64_t> CtrData::users_of(std::span<const std::int32_t> of) const {
  std::vector<std::int64_t> result;
  for (const std::int32_t row : of) result.push_back(rows.user(row));
  return result;
}

CtrData load_ctr_data(const CtrDataConfig& config, const std::filesystem::path& folder) {
  Dataset table = load_movielens(folder);
  std::vector<std::uint8_t> labels = expctr::labels_of(table.interactions, LabelRule(config.label_rule));
  Timelines timelines(table.interactions);
  std::vector<Split> splits = split_per_user_time(timelines, config.split);
  CtrFeatures features = build_features(table, splits, {config.min_count});
  CtrDataset rows(table, features, timelines, splits, labels, {config.history, config.scope});

  const auto& train = rows.rows_of(Split::train);
  std::int64_t positives = 0;
  for (const std::int32_t row : train) positives += labels[static_cast<std::size_t>(row)];
  if (positives == 0 || positives == std::ssize(train)) {
    throw UsageError(fmt::format("{}: all {} training rows have the same label under the rule '{}'", folder.string(), train.size(), config.label_rule),
                     "choose a data.label_rule that separates liked from disliked");
  }
  return {std::move(table), std::move(labels), std::move(timelines), std::move(splits), std::move(features), std::move(rows)};
}

nlohmann::json click_metrics(const CtrData& data, std::span<const std::int32_t> rows, std::span<const double> probabilities) {
  nlohmann::json result{{"rows", rows.size()}, {"auc", nullptr}, {"gauc", nullptr}, {"logloss", nullptr}};
  if (rows.empty()) return result;
  const auto labels = data.labels_of(rows);
  if (const auto value = auc(probabilities, labels)) result["auc"] = *value;
  if (const GroupAuc value = group_auc(probabilities, labels, data.users_of(rows)); std::isfinite(value.value)) result["gauc"] = value.value;
  result["logloss"] = logloss(probabilities, labels);
  return result;
}

}  // namespace expctr
