// Which implementation runs GRU and LSTM layers on CUDA.
#pragma once

#include "engine/ops/recurrent.h"

namespace expctr {

/// own: cuda/recurrent.cu, the default. cudnn: cuDNN's RNN for f32 layers without empty rows (the others stay with our own kernels); it
/// reads the lengths on the host, so a layer with lengths waits for the device and cannot be captured into a graph.
enum class RecurrentLibrary { own, cudnn };

/// For the whole process. Throws UsageError for cudnn in a build without it (configure with -DEXPCTR_CUDNN=ON).
void set_recurrent_library(RecurrentLibrary library);
RecurrentLibrary recurrent_library();

/// The layer through cuDNN where that is chosen and possible; undefined states otherwise. Operands as for gru and lstm, checked by them; x
/// is zero where it is padding.
RecurrentStates library_layer(const char* op, RecurrentCell cell, const Tensor& x, const RecurrentWeights& weights, const Tensor& lengths,
                              const Tensor& initial, const Tensor& initial_cell);

}  // namespace expctr
