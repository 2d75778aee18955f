#include "engine/ops/attention_library.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "base/error.h"
#include "cuda/attention_cudnn.h"
#include "engine/autograd/tape.h"
#include "engine/core/cudnn.h"
#include "engine/ops/elementwise.h"

namespace expctr {
namespace {

std::atomic<AttentionLibrary>& chosen() {
  static std::atomic<AttentionLibrary> library{AttentionLibrary::own};
  return library;
}

std::atomic<std::int64_t>& calls() {
  static std::atomic<std::int64_t> count{0};
  return count;
}

[[maybe_unused]] bool aligned(const Tensor& tensor) { return reinterpret_cast<std::uintptr_t>(tensor.data()) % 16 == 0; }

/// Tokens a sequence when the offsets cut all tokens into sequences of one length, else 0.
[[maybe_unused]] std::int64_t common_length(const std::vector<std::int32_t>& offsets, std::int64_t tokens) {
  const std::int64_t sequences = static_cast<std::int64_t>(offsets.size()) - 1;
  if (sequences < 1 || tokens % sequences != 0) return 0;
  const std::int64_t length = tokens / sequences;
  for (std::int64_t s = 0; s <= sequences; ++s)
    if (offsets[static_cast<std::size_t>(s)] != s * length) return 0;
  return length;
}

[[maybe_unused]] Tensor bytes(std::size_t count, Device device) {
  return Tensor::empty({static_cast<std::int64_t>(std::max<std::size_t>(count, 1))}, DType::u8, device);
}

/// Adds a finished gradient to an accumulated one.
[[maybe_unused]] void add_to(const Tensor& slot, const Tensor& values) {
  if (slot.defined()) axpy(1.0, values, slot);
}

}  // namespace

void set_attention_library(AttentionLibrary library) {
  if (library == AttentionLibrary::cudnn && !has_cudnn_attention)
    throw UsageError("attention: this build has no cuDNN attention",
                     "configure with -DEXPCTR_CUDNN=ON and -DCUDNN_FRONTEND=, the folder of cudnn_frontend.h");
  chosen().store(library);
}

AttentionLibrary attention_library() { return chosen().load(); }

std::int64_t attention_library_calls() { return calls().load(); }

Tensor library_attention([[maybe_unused]] const Tensor& q, [[maybe_unused]] const Tensor& k, [[maybe_unused]] const Tensor& v,
                         [[maybe_unused]] const Tensor& sequence_offsets, [[maybe_unused]] const AttentionShape& shape,
                         [[maybe_unused]] const AttentionKeyTensors& keys) {
  if constexpr (has_cudnn_attention) {
    if (attention_library() != AttentionLibrary::cudnn || !q.device().is_cuda() || q.dtype() != DType::bf16) return {};
    if (keys.offsets.defined() || keys.lengths.defined() || keys.prefixes.defined() || shape.window > 0) return {};
    if (q.size() == 0 || !std::isfinite(shape.scale) || !aligned(q) || !aligned(k) || !aligned(v)) return {};
    const std::int64_t tokens = q.dim(0), batch = sequence_offsets.dim(0) - 1,
                       time = common_length(sequence_offsets.to_vector<std::int32_t>(), tokens);
    if (time == 0 || tokens > std::numeric_limits<std::int32_t>::max()) return {};
    const cuda::CudnnAttention attention{
        static_cast<int>(batch),        static_cast<int>(time), shape.heads, shape.kv_heads, shape.head_dim, shape.causal,
        static_cast<float>(shape.scale)};
    const bool training = Tape::recording();
    const Stream stream = current_stream(q.device());
    using Pass = cuda::CudnnAttentionPass;
    const std::optional<std::size_t> workspace =
        cuda::cudnn_attention_workspace(attention, training ? Pass::training : Pass::inference, stream);
    // A shape that only goes forward is of no use in training.
    if (!workspace || (training && !cuda::cudnn_attention_workspace(attention, Pass::backward, stream))) return {};
    const Tensor y = q.empty_like(), statistics = training ? Tensor::empty({batch, shape.heads, time}, DType::f32, q.device()) : Tensor(),
                 space = bytes(*workspace, q.device());
    cuda::cudnn_attention_forward(
        attention, {q.data(), k.data(), v.data(), y.data(), training ? statistics.view().as<float>() : nullptr, space.data()}, stream);
    ++calls();
    const Tensor plain = y.detached();
    return record("attention", y, {q, k, v}, [=](const Tensor& dy, const GradientSlots& d) {
      const Stream now = current_stream(q.device());
      const Tensor dq = q.empty_like(), dk = k.empty_like(), dv = v.empty_like(),
                   room = bytes(cuda::cudnn_attention_workspace(attention, Pass::backward, now).value(), q.device());
      cuda::cudnn_attention_backward(attention,
                                     {q.data(), k.data(), v.data(), plain.data(), statistics.view().as<float>(), dy.data(), dq.data(),
                                      dk.data(), dv.data(), room.data()},
                                     now);
      add_to(d[0], dq);
      add_to(d[1], dk);
      add_to(d[2], dv);
    });
  } else {
    return {};
  }
}

}  // namespace expctr
