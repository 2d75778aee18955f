// Arguments of maxima and minima along an axis.
#pragma once

#include "base/view.h"

namespace expctr {

/// x [outer, n, inner] -> y [outer, inner]: largest (or smallest) over n; index [outer, inner] i32: where, the lowest of equal ones. NaN
/// counts as the extreme. n is at least 1 where there are outputs. y or index may be empty.
struct ExtremeForward {
  bool maximum;
  View x, y, index;
  View scratch;
};
/// dx[o, index[o, i], i] += dy[o, i].
struct ExtremeBackward {
  View dy, index, dx;
};

}  // namespace expctr
