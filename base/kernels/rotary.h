// Arguments of the rotary position embedding.
#pragma once

#include "base/view.h"

namespace expctr {

/// x, y [tokens, heads, head_dim]; positions [tokens] i32; table [positions, head_dim]: cos in the first half, sin in the second.
/// Pairs are (i, i + head_dim / 2): y_i = x_i cos - x_j sin, y_j = x_j cos + x_i sin; inverse: the angle's sign is turned.
/// accumulate: y += (the backward pass is the inverse rotation of dy).   Source: Su et al. 2021, in the layout of Llama checkpoints.
struct Rotary {
  bool inverse, accumulate;
  View x, positions, table, y;
};

}  // namespace expctr
