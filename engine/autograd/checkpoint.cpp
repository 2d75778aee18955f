#include "engine/autograd/checkpoint.h"

#include <algorithm>
#include <vector>

#include "base/kernels/elementwise.h"
#include "engine/autograd/tape.h"
#include "engine/core/run.h"
#include "engine/ops/layout.h"

namespace expctr {

Tensor checkpoint(const Segment& segment, std::span<const Tensor> inputs) {
  if (!Tape::recording()) return segment(inputs);
  std::vector<Tensor> read(inputs.begin(), inputs.end());
  Tensor y;
  {
    const GradientProbe probe;
    y = dense(segment(inputs)).detached();
    // What the segment captures is an input too: its gradient is not final before this op's backward has run.
    for (const Tensor& tensor : probe.inputs())
      if (std::none_of(inputs.begin(), inputs.end(), [&](const Tensor& input) { return input.shares_gradient(tensor); })) read.push_back(tensor);
  }
  const std::size_t count = inputs.size();
  std::vector<Tensor> kept(inputs.begin(), inputs.end());
  return record("checkpoint", y, read, [segment, kept = std::move(kept), count](const Tensor& dy, const GradientSlots&) {
    // The inputs' own gradients are written to, in the order in which they would have been without the checkpoint.
    Tape tape;
    const Tensor again = dense(segment(std::span<const Tensor>(kept.data(), count)));
    if (!again.requires_gradient()) return;
    if (again.has_gradient()) {  // the segment returns one of its inputs
      run(dy.device(), Axpy{1.0, dy, again.gradient()});
      return;
    }
    tape.backward(std::span<const Tensor>(&again, 1), std::span<const Tensor>(&dy, 1));
  });
}

}  // namespace expctr
