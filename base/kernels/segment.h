// Arguments of reductions of runs of rows.
#pragma once

#include "base/view.h"

namespace expctr {

/// x [rows, width], offsets [segments + 1] i32 ascending -> y [segments, width]: sum of rows offsets[s] .. offsets[s + 1] - 1, in ascending
/// order; 0 for an empty segment.
struct SegmentSumForward {
  View x, offsets, y;
};
/// dx[r] += dy[s] for the rows r of segment s.
struct SegmentSumBackward {
  View dy, offsets, dx;
};
/// y = the largest of each column in the segment, argument [segments, width] i32 the first row that holds it; NaN is larger than every
/// number. An empty segment gives 0 and -1.
struct SegmentMaxForward {
  View x, offsets, y, argument;
};
/// dx[argument[s, c], c] += dy[s, c].
struct SegmentMaxBackward {
  View dy, argument, dx;
};

}  // namespace expctr
