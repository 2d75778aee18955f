// Arguments of softmax over the last axis.
#pragma once

#include "base/view.h"

namespace expctr {

/// x [rows, columns] -> y: softmax(scale x) of each row, or its logarithm.
/// mask (u8, 0: masked) [groups, columns] and lengths (i32) [groups] hide entries, either may be empty: row r belongs to group
/// r / (rows / groups), rows being a multiple of groups; columns from lengths[group] on are masked. Masked entries of y are 0, in both
/// forms; so is a softmax row without an entry above minus infinity.
struct SoftmaxForward {
  double scale;
  bool logarithm;
  View x, mask, lengths, y;
};
/// dx += scale y (dy - sum of y dy); of the logarithm: dx += scale (dy - exp(y) sum of dy), masked entries left out.
struct SoftmaxBackward {
  double scale;
  bool logarithm;
  View y, mask, lengths, dy, dx;
};

}  // namespace expctr
