// Arguments of reductions. All sums run in a fixed order that depends on shapes only.
#pragma once

#include "base/view.h"

namespace expctr {

/// x [outer, n, inner] -> y [outer, inner]: y = scale * sum over n.
struct SumForward {
  double scale;
  View x, y;
  View scratch;
};
/// dx [outer, n, inner] += scale * dy [outer, inner].
struct SumBackward {
  double scale;
  View dy, dx;
};
/// x [rows, width], offsets [segments + 1] i32 ascending -> y [segments, width]: mean of rows offsets[s] .. offsets[s + 1] - 1; zero for an empty segment.
struct SegmentMeanForward {
  View x, offsets, y;
};
/// dx[r] += dy[s] / rows of s.
struct SegmentMeanBackward {
  View dy, offsets, dx;
};
/// Sum of squares of all elements of `count` tensors -> total [1] f64, in a fixed order.
struct SquaredNorm {
  const View* tensors;
  int count;
  View total;
  View scratch;
};

}  // namespace expctr
