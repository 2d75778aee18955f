// Arguments of copies between memory layouts.
#pragma once

#include "base/view.h"

namespace expctr {

/// y[i, j, ...] = x[i, j, ...], or += where `accumulate`: one shape, one plain dtype, any strides on either side. y repeats no element
/// (no stride of 0 along an axis of more than one). accumulate takes f32, f64 and bf16 (added in f32, rounded once).
struct CopyStrided {
  bool accumulate;
  View x, y;
};

}  // namespace expctr
