// Gradient descent with momentum, and clipping of values, over all tensors in one launch: 12 bytes an element without momentum, 20 with it,
// 8 for clipping; 4 to 8 FLOPs an element; bound by memory.
#include "cuda/tensor_table.cuh"

namespace expctr::cuda {

namespace {

struct SgdEntry {
  float *parameter, *velocity;
  const float* gradient;
};
using SgdTable = TensorTable<SgdEntry, 256>;

struct SgdStep {
  DeviceScale scale;
  float rate, decay, momentum, along, ahead;
};

template <bool Momentum>
__global__ void __launch_bounds__(block_threads) sgd_kernel(const __grid_constant__ SgdTable table, const __grid_constant__ SgdStep step) {
  const int tensor = table.tensor_of_block();
  const SgdEntry& entry = table.entry[tensor];
  const std::int64_t begin = (static_cast<std::int64_t>(blockIdx.x) - table.first_block[tensor]) * optim_piece, n = table.elements[tensor];
  const float factor = step.scale.get();
#pragma unroll
  for (int round = 0; round < optim_rounds; ++round) {
    const std::int64_t i = begin + 4 * (round * block_threads + static_cast<int>(threadIdx.x));
    if (i >= n) return;
    const int count = n - i < 4 ? static_cast<int>(n - i) : 4;
    float4 p = load_packet(entry.parameter + i, count), g = load_packet(entry.gradient + i, count), u = make_float4(0, 0, 0, 0);
    if (Momentum) u = load_packet(entry.velocity + i, count);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float whole = factor * lane4(g, e) + step.decay * lane4(p, e);
      if (Momentum) lane4(u, e) = step.momentum * lane4(u, e) + whole;
      lane4(p, e) -= step.rate * (Momentum ? step.along * whole + step.ahead * lane4(u, e) : whole);
    }
    store_packet(entry.parameter + i, count, p);
    if (Momentum) store_packet(entry.velocity + i, count, u);
  }
}

using ValueTable = TensorTable<float*, 256>;

__global__ void __launch_bounds__(block_threads) clip_values_kernel(const __grid_constant__ ValueTable table, float limit) {
  const int tensor = table.tensor_of_block();
  float* x = table.entry[tensor];
  const std::int64_t begin = (static_cast<std::int64_t>(blockIdx.x) - table.first_block[tensor]) * optim_piece, n = table.elements[tensor];
#pragma unroll
  for (int round = 0; round < optim_rounds; ++round) {
    const std::int64_t i = begin + 4 * (round * block_threads + static_cast<int>(threadIdx.x));
    if (i >= n) return;
    const int count = n - i < 4 ? static_cast<int>(n - i) : 4;
    float4 v = load_packet(x + i, count);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float value = lane4(v, e);
      lane4(v, e) = value > limit ? limit : value < -limit ? -limit : value;
    }
    store_packet(x + i, count, v);
  }
}

}  // namespace

template <>
void run(const SgdUpdate& args, Stream stream) {
  const bool momentum = args.momentum != 0;
  const SgdStep step{DeviceScale("sgd", args.scale),        static_cast<float>(args.learning_rate),
                     static_cast<float>(args.weight_decay), static_cast<float>(args.momentum),
                     args.nesterov ? 1.0f : 0.0f,           args.nesterov ? static_cast<float>(args.momentum) : 1.0f};
  launch_tensors<SgdTable>(
      args.count,
      [&](int t) {
        const SgdTensor& tensor = args.tensors[t];
        require_f32("sgd", {&tensor.parameter, &tensor.gradient, &tensor.velocity});
        return SgdEntry{tensor.parameter.as<float>(), tensor.velocity.as<float>(), tensor.gradient.as<float>()};
      },
      [&](int t) { return args.tensors[t].parameter.size(); },
      [&](const SgdTable& table, unsigned blocks) {
        if (blocks == 0) return;
        (momentum ? sgd_kernel<true> : sgd_kernel<false>)<<<blocks, block_threads, 0, native(stream)>>>(table, step);
        check_launch("sgd");
      });
}

template <>
void run(const ClipValues& args, Stream stream) {
  if (!(args.limit >= 0)) throw Error("cuda: clip_values: the limit is " + std::to_string(args.limit), "a limit is a number >= 0");
  launch_tensors<ValueTable>(
      args.count,
      [&](int t) {
        require_f32("clip_values", {&args.tensors[t]});
        return args.tensors[t].as<float>();
      },
      [&](int t) { return args.tensors[t].size(); },
      [&](const ValueTable& table, unsigned blocks) {
        if (blocks > 0) clip_values_kernel<<<blocks, block_threads, 0, native(stream)>>>(table, static_cast<float>(args.limit));
        check_launch("clip_values");
      });
}

}  // namespace expctr::cuda
