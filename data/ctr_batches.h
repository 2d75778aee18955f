// Click-prediction rows in memory, the order of an epoch and the batches cut from it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/features.h"
#include "data/split.h"

namespace expctr {

/// Order of one epoch: a permutation of 0 .. rows-1 that is a function of (seed, epoch, rows) alone (Fisher-Yates on Philox), so
/// any position of any epoch can be taken up again.
class BatchOrder {
 public:
  BatchOrder(std::uint64_t seed, std::uint32_t epoch, std::int64_t rows);
  const std::vector<std::int32_t>& indices() const { return indices_; }
  std::int64_t batches(std::int64_t batch) const;
  /// Batch number `index`; the last one may be short.
  std::span<const std::int32_t> batch(std::int64_t index, std::int64_t batch) const;

 private:
  std::vector<std::int32_t> indices_;
};

/// One batch, every array contiguous and row-major. Histories are padded on the left: the most recent row stands last.
struct CtrBatch {
  std::int32_t rows = 0, history = 0, genres_width = 0;
  std::vector<std::int32_t> row;                                        ///< [rows] of the dataset
  std::vector<std::int32_t> user, age, gender, occupation, item, year;  ///< [rows]
  std::vector<std::int32_t> genres;                                     ///< [rows, genres_width], 0 = padding
  std::vector<std::int32_t> history_item, history_year;                 ///< [rows, history], 0 = padding
  std::vector<std::int32_t> history_label;                              ///< [rows, history]: 1 disliked, 2 liked, 0 padding
  std::vector<std::int32_t> history_genres;                             ///< [rows, history, genres_width]
  std::vector<std::int32_t> history_length;                             ///< [rows]
  std::vector<float> label;                                             ///< [rows]
};

struct CtrDatasetOptions {
  int history = 50;  ///< most rows of a history
  HistoryScope scope = HistoryScope::all_earlier;
};

/// All rows of a dataset as int32 columns. A history is a window of its user's timeline, so it costs two numbers a row.
class CtrDataset {
 public:
  CtrDataset(const Dataset& data, const CtrFeatures& features, const Timelines& timelines, const std::vector<Split>& splits,
             const std::vector<std::uint8_t>& labels, const CtrDatasetOptions& options = {});

  std::int64_t rows() const { return static_cast<std::int64_t>(label_.size()); }
  int history() const { return options_.history; }
  int genres_width() const { return genres_width_; }
  /// Rows of a split, ascending.
  const std::vector<std::int32_t>& rows_of(Split split) const { return split_rows_[static_cast<std::size_t>(split)]; }
  /// Number of the user in the dataset, what gAUC groups by.
  std::int32_t user(std::int32_t row) const { return user_[static_cast<std::size_t>(row)]; }
  std::uint8_t label(std::int32_t row) const { return label_[static_cast<std::size_t>(row)]; }

  /// Writes the given rows, in the given order, into `batch`, whose memory is used again.
  void fill(std::span<const std::int32_t> rows, CtrBatch& batch) const;

 private:
  CtrDatasetOptions options_;
  int genres_width_ = 1;
  std::vector<std::int32_t> user_, item_;                          // [rows]
  std::vector<std::uint8_t> label_;                                // [rows]
  std::vector<std::int32_t> history_begin_, history_length_;       // [rows], into the timeline arrays
  std::vector<std::int32_t> timeline_item_, timeline_label_;       // [rows], users one after the other
  std::vector<std::int32_t> user_id_, age_, gender_, occupation_;  // [users]
  std::vector<std::int32_t> item_id_, year_, genres_;              // [items], genres [items, genres_width]
  std::vector<std::int32_t> split_rows_[3];
};

}  // namespace expctr
