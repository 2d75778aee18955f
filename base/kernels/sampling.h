// Arguments of sampling from logits.
#pragma once

#include "base/view.h"

namespace expctr {

/// One token a row. logits [rows, classes] f32; u [rows] f32 uniform in [0, 1). Order: divide by temperature, top-k (0 = off, ties: lower id first), top-p (1 = off),
/// renormalise, then the first token (in order of id) whose cumulative probability exceeds u. temperature 0: the first maximum.
/// -> token [rows] i32, log_probability [rows]: log softmax(logits / temperature)[token] before truncation (temperature 0: of the logits themselves),
/// computed in the order of LinearCrossEntropyForward, so the same bits on the CPU.
struct SampleToken {
  double temperature, top_p, min_p;
  std::int64_t top_k;
  View logits, u, token, log_probability;
  View scratch;
};

}  // namespace expctr
