// From plain arrays of ids to the tensors of a DIN pass.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "models/ctr/din.h"

namespace expctr {

/// Ids of a field for n entries, row-major [n, width]; width > 1: a list padded with 0.
struct FieldArray {
  std::span<const std::int32_t> ids;
  std::int64_t width = 1;
};

/// Ids of a batch in host memory. A history position whose first item field is 0 is padding.
struct DinArrays {
  std::int64_t rows = 0, history = 0;
  std::vector<FieldArray> fields;               ///< [rows, width] each
  std::vector<FieldArray> history_fields;       ///< [rows * history, width] each
  std::span<const std::int32_t> history_label;  ///< [rows * history]; empty without map layer
  std::span<const std::int32_t> sample_ids;     ///< [rows]; may be empty when nothing is dropped
};

/// Builds DinBatch without text. Equal history positions become one entry; entries are numbered by first appearance.
/// Throws ShapeError when an array has the wrong length.
DinBatch make_din_batch(const DinArrays& arrays, const DinOptions& options, DType dtype = DType::f32, Device device = {});

}  // namespace expctr
