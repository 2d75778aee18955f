// A rated catalogue made ready for click models: labels, split, features, rows.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "data/ctr_batches.h"
#include "data/features.h"
#include "data/movielens.h"
#include "data/split.h"
#include "trainers/ctr/config.h"

namespace expctr {

struct CtrData {
  Dataset table;
  std::vector<std::uint8_t> labels;  ///< [rows]
  Timelines timelines;
  std::vector<Split> splits;  ///< [rows]
  CtrFeatures features;
  CtrDataset rows;
};

std::vector<std::uint8_t> labels_of(const CtrDataset& rows, std::span<const std::int32_t> of);

/// Throws UsageError when all training labels are equal.
CtrData make_ctr_data(Dataset table, const CtrDataConfig& config, const CtrConfig& ctr);
/// The same from files. Throws InputError for bad ones.
CtrData load_ctr_data(const std::filesystem::path& folder, const CtrDataConfig& config, const CtrConfig& ctr);

/// {"rows","auc","gauc","logloss"} of some rows; auc and gauc are null with one class only.
nlohmann::json click_metrics(const CtrDataset& dataset, std::span<const std::int32_t> rows, std::span<const double> probabilities);

}  // namespace expctr
