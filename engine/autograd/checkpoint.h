// Activation checkpointing: a segment of a model keeps its inputs only and is computed again in the backward pass.
#pragma once

#include <functional>
#include <initializer_list>
#include <span>

#include "engine/core/tensor.h"

namespace expctr {

/// A piece of a model, one output. It is called twice with the same inputs and must compute the same both times: random ops take their keys
/// from outside (they are arguments), and nothing that outlives the call is changed. Running statistics would move twice: leave layers that
/// keep some outside, or in evaluation mode.
using Segment = std::function<Tensor(std::span<const Tensor> inputs)>;

/// segment(inputs), with the bits of gradients that it would have without checkpointing, those of parameters that the segment captures
/// included; between forward and backward only the inputs and the output are alive. Costs one more forward pass of the segment.
/// Segments nest. Without a tape, or where nothing in the segment requires a gradient, it is a plain call.   Source: Chen et al. 2016.
Tensor checkpoint(const Segment& segment, std::span<const Tensor> inputs);
inline Tensor checkpoint(const Segment& segment, std::initializer_list<Tensor> inputs) {
  return checkpoint(segment, std::span<const Tensor>(inputs.begin(), inputs.size()));
}

}  // namespace expctr
