// Attention on tensor cores: bf16 storage, head_dim a multiple of 8 up to 128, rows on 16-byte boundaries, scale > 0. Whoever does not fit
// takes the float32 kernels of cuda/attention.cu and cuda/attention_backward.cu.
#pragma once

#include "base/kernels/attention.h"

namespace expctr::cuda {

bool fits_tensor_cores(const AttentionForward& args);
bool fits_tensor_cores(const PagedAttention& args);
bool fits_tensor_cores(const AttentionBackward& args);

void forward_on_tensor_cores(const AttentionForward& args, Stream stream);
void forward_on_tensor_cores(const PagedAttention& args, Stream stream);
void backward_on_tensor_cores(const AttentionBackward& args, Stream stream);

/// Decoding: few queries a sequence (cuda/attention_decode.cu).
bool is_decoding(const PagedAttention& args);
void decode(const PagedAttention& args, Stream stream);

}  // namespace expctr::cuda
