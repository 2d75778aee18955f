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
#include "trainers/ctr/ctr_config.h"

namespace expctr {

struct CtrData {
  Dataset table;
  std::vector<std::uint8_t> labels;  ///< [rows]
  Timelines timelines;
  std::vector<Split> splits;         ///< [rows]
  CtrFeatures features;
  CtrDataset rows;

  std::vector<std::uint8_t> labels_of(std::span<const std::int32_t> of) const;
  std::vector<std::int64_t> users_of(std::span<const std::int32_t> of) const;
};

/// Reads and prepares. Throws InputError for bad files and UsageError when all training labels are equal.
CtrData load_ctr_data(const CtrDataConfig& config, const std::filesystem::path& folder);

/// {"rows","auc","gauc","logloss"} of some rows; auc and gauc are null with one class only.
nlohmann::json click_metrics(const CtrData& data, std::span<const std::int32_t> rows, std::span<const double> probabilities);

}  // namespace expctr
