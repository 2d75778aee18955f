// The loops of a copy between two strided layouts, in the order that suits memory; shared by both backends.
#pragma once

#include <cstdint>
#include <utility>

#include "base/view.h"

namespace expctr {

/// Nested loops, outermost first: the innermost axis is the one along which y lies closest together. Axes of one element are gone, and
/// neighbours that both sides walk through without a gap are one.
struct StridedLoop {
  int rank = 0;
  std::int64_t extent[max_rank] = {}, x[max_rank] = {}, y[max_rank] = {};
};

/// x and y have one shape.
inline StridedLoop strided_loop(const View& x, const View& y) {
  StridedLoop loop;
  for (int i = 0; i < y.rank; ++i) {
    if (y.shape[i] == 1) continue;
    int at = loop.rank++;
    loop.extent[at] = y.shape[i];
    loop.x[at] = x.stride[i];
    loop.y[at] = y.stride[i];
    for (; at > 0 && loop.y[at - 1] < loop.y[at]; --at) {  // insertion by descending stride of y; equal ones keep their order
      std::swap(loop.extent[at - 1], loop.extent[at]);
      std::swap(loop.x[at - 1], loop.x[at]);
      std::swap(loop.y[at - 1], loop.y[at]);
    }
  }
  int last = 0;  // axes 0 .. last are merged
  for (int i = 1; i < loop.rank; ++i) {
    if (loop.x[last] == loop.extent[i] * loop.x[i] && loop.y[last] == loop.extent[i] * loop.y[i]) {
      loop.extent[last] *= loop.extent[i];
    } else {
      ++last;
      loop.extent[last] = loop.extent[i];
    }
    loop.x[last] = loop.x[i];
    loop.y[last] = loop.y[i];
  }
  if (loop.rank > 0) loop.rank = last + 1;
  return loop;
}

}  // namespace expctr
