// Argument checks of the CPU kernels: a ShapeError that names the kernel and the shapes.
#pragma once

#include <initializer_list>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/view.h"

namespace expctr::cpu {

/// "x f32 [2, 3]"
inline std::string describe(const char* name, const View& view) {
  std::string text = std::string(name) + ' ' + dtype_name(view.dtype) + " [";
  for (int i = 0; i < view.rank; ++i) text += (i ? ", " : "") + std::to_string(view.shape[i]);
  return text + ']';
}

/// Bytes behind a view; 0 when it is absent.
inline std::size_t view_bytes(const View& view) { return view.empty() ? 0 : dtype_bytes(view.dtype, view.size()); }

using NamedView = std::pair<const char*, View>;

/// Throws when `holds` is false: "<kernel>: <rule>; got x f32 [2, 3], ...".
inline void require_arguments(bool holds, const char* kernel, const char* rule, std::initializer_list<NamedView> views) {
  if (holds) return;
  std::string message = std::string(kernel) + ": " + rule + "; got ";
  const char* separator = "";
  for (const auto& [name, view] : views) {
    message += separator + describe(name, view);
    separator = ", ";
  }
  throw ShapeError(message, "pass operands of the shapes that base/kernels states");
}

}  // namespace expctr::cpu
