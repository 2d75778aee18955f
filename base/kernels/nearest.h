// Arguments of the search for nearest codes.
#pragma once

#include "base/view.h"

namespace expctr {

constexpr int most_nearest = 64;

/// The k codes nearest to every row: x [rows, width], codebook [codes, width] of one dtype (f32, f64, on CUDA also bf16) -> indices [rows, k]
/// i32, distances [rows, k] (f32; f64 for f64) = ||x - c||^2 in ascending order, equal ones by ascending index. 1 <= k <= min(codes, most_nearest).
/// Evaluated as ||c||^2 - 2 x c, to which ||x||^2 is added at the end: no [rows, codes] buffer. Missing numbers (NaN) are never near: a row that
/// finds fewer than k codes has indices of -1.
struct NearestCodes {
  View x, codebook, indices, distances;
  View scratch;
};

}  // namespace expctr
