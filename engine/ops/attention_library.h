// Which implementation runs attention on CUDA.
#pragma once

#include "engine/ops/attention.h"

namespace expctr {

/// own: cuda/attention_mma.cu and its neighbours, the default. cudnn: cuDNN's fused attention for bf16 self-attention, causal or not, of
/// sequences of one length without key offsets, lengths, prefixes or a window, where cuDNN has an engine for the shape; everything else
/// stays with our own kernels. It reads sequence_offsets on the host, so a call waits for the device and cannot be captured into a graph.
/// The first call for a shape builds its graph; workspace comes from the device's memory pool and goes back after the call. The gradients
/// are the same bits every time, for which cuDNN may want 2 bytes a score of workspace (the environment variable
/// CUDNN_FRONTEND_ATTN_DP_WORKSPACE_LIMIT bounds it).
enum class AttentionLibrary { own, cudnn };

/// For the whole process. Throws UsageError for cudnn in a build without it.
void set_attention_library(AttentionLibrary library);
AttentionLibrary attention_library();
/// Calls of `attention` in this process that cuDNN has computed: shows what falls back to our own kernels.
std::int64_t attention_library_calls();

/// The op through cuDNN where that is chosen and possible; undefined otherwise. Operands as for attention, checked by it, dense.
Tensor library_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& sequence_offsets, const AttentionShape& shape,
                         const AttentionKeyTensors& keys);

}  // namespace expctr
