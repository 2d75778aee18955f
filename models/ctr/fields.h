// What click models are fed with: categorical fields and their ids.
#pragma once

#include <cstdint>
#include <string>

#include "engine/core/tensor.h"

namespace expctr {

/// A categorical field: ids 0 (padding, a frozen zero row) .. rows - 1 of one embedding table.
struct CtrField {
  std::string name;
  std::int64_t rows = 0;
  bool of_item = false;  ///< describes the item: part of target and history, which share its table
};

/// Ids of one field for n entries: one each, or lists (offsets [n + 1]) whose vectors are averaged; an empty list gives zeros.
struct FieldIds {
  Tensor ids;      ///< [n], or all lists behind one another, without padding; i32
  Tensor offsets;  ///< undefined: one id an entry
};

}  // namespace expctr
