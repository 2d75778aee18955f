// GRU and LSTM layers through cuDNN: a second implementation behind engine/ops/recurrent.h, in builds with EXPCTR_CUDNN=ON. f32 throughout.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/kernels/recurrent.h"

namespace expctr::cuda {

/// x [batch, time, width], states [batch, time, hidden]; gru or lstm.
struct CudnnLayer {
  RecurrentCell cell;
  int batch, time, width, hidden;
  const std::int32_t* lengths;         ///< [batch] of the host, each at least 1
  const std::int32_t* device_lengths;  ///< the same on the device
};

struct CudnnSizes {
  std::size_t weights = 0, workspace = 0, reserve = 0;  ///< bytes; `reserve` is what a training pass keeps for its backward pass
};
CudnnSizes cudnn_sizes(const CudnnLayer& layer, bool training, Stream stream);

/// weight_input, weight_hidden, bias_input, bias_hidden as RecurrentForward has them (null: zeros) -> cuDNN's own layout.
struct CudnnParameters {
  const float *weight_input, *weight_hidden, *bias_input, *bias_hidden;
};
void cudnn_pack(const CudnnLayer& layer, const CudnnParameters& parameters, void* weights, Stream stream);

struct CudnnForward {
  const float *x, *initial, *initial_cell;  ///< initial states may be null: zeros
  float *states, *last, *last_cell;
  void *weights, *workspace, *reserve;  ///< reserve null: inference
};
void cudnn_forward(const CudnnLayer& layer, const CudnnForward& pass, Stream stream);

/// dx, dinitial, dinitial_cell are written; the parameters' gradients are added to (null: not wanted). dweights: memory like `weights`.
struct CudnnBackward {
  const float *x, *initial, *initial_cell, *states, *dstates, *dlast, *dlast_cell;
  float *dx, *dinitial, *dinitial_cell, *dweight_input, *dweight_hidden, *dbias_input, *dbias_hidden;
  void *weights, *dweights, *workspace, *reserve;
};
void cudnn_backward(const CudnnLayer& layer, const CudnnBackward& pass, Stream stream);

}  // namespace expctr::cuda
