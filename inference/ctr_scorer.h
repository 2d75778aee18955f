// Click probabilities: data-set rows meet a click model.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/ctr_batches.h"
#include "models/ctr/din.h"

namespace expctr {

/// Vectors of texts and who has which. Rows without a text have the adapter output a = 0.
struct TextVectors {
  std::int64_t width = 0;
  std::vector<float> values;         ///< [texts, width]
  std::vector<std::int32_t> of_row;  ///< [rows of the data set] into texts; -1: none

  std::int64_t texts() const { return width == 0 ? 0 : static_cast<std::int64_t>(values.size()) / width; }
  /// The texts of some rows, in their order.
  std::vector<std::int32_t> of(std::span<const std::int32_t> rows) const;
};

/// Fields user, item, age, gender, occupation, genres, year, in this order; item, genres and year describe the item.
std::vector<CtrField> ctr_fields(const CtrFeatures& features);

/// The tensors of a batch. Only the texts that the batch uses are copied: `text_of_row` [batch.rows] numbers `values` [texts, width]; both
/// may be empty.
DinBatch din_batch(const CtrBatch& batch, const DinOptions& options, std::span<const float> text_values,
                   std::span<const std::int32_t> text_of_row, DType dtype = DType::f32, Device device = {});

/// p(click) of data-set rows in evaluation mode, in the order of `rows`; a row may come several times, with different texts: text_of_row[i]
/// belongs to rows[i]. The result of a row does not depend on the others.
std::vector<double> predict_clicks(const Din& model, const CtrDataset& dataset, std::span<const std::int32_t> rows,
                                   std::span<const float> text_values = {}, std::span<const std::int32_t> text_of_row = {},
                                   std::int64_t batch = 2048);
/// The same with each row's own text.
std::vector<double> predict_clicks(const Din& model, const CtrDataset& dataset, std::span<const std::int32_t> rows,
                                   const TextVectors& texts, std::int64_t batch = 2048);

}  // namespace expctr
