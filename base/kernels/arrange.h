// Arguments of ops that move elements: copies along an axis, gathering along an axis, packed sequences and padded batches.
#pragma once

#include "base/view.h"

namespace expctr {

/// y[o, y_begin + k, i] (+)= x[o, x_begin + k, i], k < count; x [outer, *, inner], y [outer, *, inner]. f32, f64, bf16; i32 without
/// accumulate.
struct CopyAxis {
  std::int64_t count, x_begin, y_begin;
  bool accumulate;
  View x, y;
};
/// y[o, k, i] (+)= x[o, index[o, k, i], i]; x [outer, n, inner], y [outer, m, inner], index i32 [outer, m, inner], or [outer, m] for whole
/// vectors. A negative index gives 0.
struct TakeAlong {
  bool accumulate;
  View x, index, y;
};
/// dx[o, index[o, k, i], i] += dy[o, k, i], in ascending k.
struct TakeAlongBackward {
  View dy, index, dx;
};
/// Sequences, packed as rows offsets[b] .. offsets[b + 1] - 1 of x [rows, width], offsets [batch + 1] i32, to y [batch, length, width].
/// Longer ones are cut. front: padding stands and cutting happens at the front, else at the end. y (+)= ..., padding is 0.
struct PadRows {
  bool front, accumulate;
  View x, offsets, y;
};
/// The inverse: x [batch, length, width] -> y [rows, width] (+)= ...; rows that were cut and rows of no sequence get 0.
struct PackRows {
  bool front, accumulate;
  View x, offsets, y;
};

}  // namespace expctr
