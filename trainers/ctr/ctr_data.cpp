#include "trainers/ctr/ctr_data.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "inference/metrics/ranking_quality.h"

namespace expctr {

std::vector<std::uint8_t> labels_of(const CtrDataset& rows, std::span<const std::int32_t> of) {
  std::vector<std::uint8_t> result;
  result.reserve(of.size());
  for (const std::int32_t row : of) result.push_back(rows.label(row));
  return result;
}

CtrData make_ctr_data(Dataset table, const CtrDataConfig& config, const CtrConfig& ctr) {
  std::vector<std::uint8_t> labels = labels_of(table.interactions, LabelRule(config.label_rule));
  Timelines timelines(table.interactions);
  std::vector<Split> splits = split_per_user_time(timelines, config.split);
  CtrFeatures features = build_features(table, splits, {ctr.min_count});
  CtrDataset rows(table, features, timelines, splits, labels, {static_cast<int>(ctr.history), config.scope});

  const auto& train = rows.rows_of(Split::train);
  std::int64_t positives = 0;
  for (const std::int32_t row : train) positives += labels[static_cast<std::size_t>(row)];
  if (positives == 0 || positives == std::ssize(train)) {
    throw UsageError(
        fmt::format("{}: all {} training rows have the same label under the rule '{}'", table.name, train.size(), config.label_rule),
        "choose a data.label_rule that separates liked from disliked");
  }
  return {std::move(table), std::move(labels), std::move(timelines), std::move(splits), std::move(features), std::move(rows)};
}

CtrData load_ctr_data(const std::filesystem::path& folder, const CtrDataConfig& config, const CtrConfig& ctr) {
  return make_ctr_data(load_movielens(folder), config, ctr);
}

nlohmann::json click_metrics(const CtrDataset& dataset, std::span<const std::int32_t> rows, std::span<const double> probabilities) {
  nlohmann::json result{{"rows", rows.size()}, {"auc", nullptr}, {"gauc", nullptr}, {"logloss", nullptr}};
  if (rows.empty()) return result;
  const auto labels = labels_of(dataset, rows);
  std::vector<std::int64_t> users;
  for (const std::int32_t row : rows) users.push_back(dataset.user(row));
  if (const auto value = auc(probabilities, labels)) result["auc"] = *value;
  if (const GroupAuc value = group_auc(probabilities, labels, users); std::isfinite(value.value)) result["gauc"] = value.value;
  result["logloss"] = logloss(probabilities, labels);
  return result;
}

}  // namespace expctr
