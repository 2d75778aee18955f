// Argument checks of the CPU kernels: each ends in a ShapeError that names the op, the rule and the operands.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include "base/error.h"
#include "base/view.h"
#include "cpu/shape_check.h"

namespace expctr::cpu {

struct Operand {
  const char* name;
  const View& view;
};
using Operands = std::initializer_list<Operand>;

/// Throws "<op>: <rule>; <name> f32 [2, 3], ..." unless `fits`.
inline void require(bool fits, const char* op, const char* rule, Operands operands, const char* hint = "") {
  if (fits) return;
  std::string message = std::string(op) + ": " + rule;
  const char* separator = "; ";
  for (const Operand& operand : operands) {
    message += separator + describe(operand.name, operand.view) + (operand.view.data == nullptr ? " (no data)" : "");
    separator = ", ";
  }
  throw ShapeError(message, hint);
}

inline bool same_shape(const View& a, const View& b) {
  if (a.rank != b.rank) return false;
  for (int i = 0; i < a.rank; ++i)
    if (a.shape[i] != b.shape[i]) return false;
  return true;
}

/// Memory is there, or there is nothing to point at.
inline bool present(const View& view) { return view.data != nullptr || view.size() == 0; }

/// All operands have the first one's shape and dtype, f32 or f64, and memory.
inline void require_alike(const char* op, Operands operands) {
  const View& first = operands.begin()->view;
  bool fits = is_floating(first.dtype);
  for (const Operand& operand : operands)
    fits = fits && same_shape(operand.view, first) && operand.view.dtype == first.dtype && present(operand.view);
  require(fits, op, "operands must have one shape and one dtype, f32 or f64", operands);
}

/// Dense f32 or f64 operands of one dtype with memory; shapes are checked apart.
inline void require_floating(const char* op, Operands operands) {
  const View& first = operands.begin()->view;
  bool fits = is_floating(first.dtype);
  for (const Operand& operand : operands) fits = fits && operand.view.dtype == first.dtype && present(operand.view);
  require(fits, op, "operands must have one dtype, f32 or f64", operands);
}

/// `ids` is i32, with `count` elements.
inline void require_ids(const char* op, const char* name, const View& ids, std::int64_t count) {
  require(ids.dtype == DType::i32 && ids.size() == count && present(ids), op,
          (std::string(name) + " must be i32 with " + std::to_string(count) + " elements").c_str(), {{name, ids}});
}

/// Every id is below `limit`; negative ones have their own meaning.
inline void require_ids_below(const char* op, const char* name, const View& ids, std::int64_t limit) {
  const std::int32_t* id = ids.as<const std::int32_t>();
  const std::int64_t n = ids.size();
  std::int32_t largest = -1;
  for (std::int64_t i = 0; i < n; ++i) largest = id[i] > largest ? id[i] : largest;
  require(largest < limit, op,
          (std::string(name) + " holds " + std::to_string(largest) + ", but must stay below " + std::to_string(limit)).c_str(),
          {{name, ids}}, "check the vocabulary that the ids were made with");
}

/// `offsets` is i32 [segments + 1], ascending, within [0, rows].
inline void require_offsets(const char* op, const View& offsets, std::int64_t segments, std::int64_t rows) {
  require_ids(op, "offsets", offsets, segments + 1);
  const std::int32_t* offset = offsets.as<const std::int32_t>();
  bool fits = offset[0] >= 0 && offset[segments] <= rows;
  for (std::int64_t s = 0; s < segments; ++s) fits = fits && offset[s] <= offset[s + 1];
  require(fits, op, ("offsets must ascend within [0, " + std::to_string(rows) + "]").c_str(), {{"offsets", offsets}});
}

inline void require_scratch(const char* op, const View& scratch, std::size_t bytes) {
  const std::size_t given = scratch.data == nullptr ? 0 : dtype_bytes(scratch.dtype, scratch.size());
  require(given >= bytes, op, ("scratch needs " + std::to_string(bytes) + " bytes").c_str(), {{"scratch", scratch}});
}

}  // namespace expctr::cpu
