// Attention through cuDNN: a second implementation behind engine/ops/attention.h, in builds that hold it (cmake/cudnn.cmake). bf16.
#pragma once

#include <cstddef>
#include <optional>

#include "base/kernels/attention.h"

namespace expctr::cuda {

/// Self-attention of `batch` sequences of `time` tokens each: q, y [batch * time, heads * head_dim], k, v [batch * time, kv_heads *
/// head_dim].
struct CudnnAttention {
  int batch, time, heads, kv_heads, head_dim;
  bool causal;
  float scale;
};

enum class CudnnAttentionPass { inference, training, backward };

/// Bytes of device memory that a pass works in; nothing where cuDNN has no engine for the shape on the current device. The first call for
/// a shape builds its graph, which takes cuDNN a fraction of a second; the graphs are kept for later calls.
std::optional<std::size_t> cudnn_attention_workspace(const CudnnAttention& attention, CudnnAttentionPass pass, Stream stream);

/// statistics: log-sum-exp of the scaled scores [batch, heads, time] f32, what the backward pass needs; null: an inference pass. The rest
/// is bf16, every pointer a multiple of 16.
struct CudnnAttentionForward {
  void *q, *k, *v, *y;
  float* statistics;
  void* workspace;
};
void cudnn_attention_forward(const CudnnAttention& attention, const CudnnAttentionForward& pass, Stream stream);

/// dq, dk, dv are written; the same bits every time.
struct CudnnAttentionBackward {
  void *q, *k, *v, *y;
  float* statistics;
  void *dy, *dq, *dk, *dv, *workspace;
};
void cudnn_attention_backward(const CudnnAttention& attention, const CudnnAttentionBackward& pass, Stream stream);

}  // namespace expctr::cuda
