// AdamW over all tensors in one launch: the table of tensors travels by value in the kernel's parameters, up to 480 tensors a launch.
// Reads parameter, gradient and both moments and writes three of them: 28 bytes an element, about 15 FLOPs; bound by memory.
#include <cmath>

#include "base/kernels/optim.h"
#include "cuda/launch.cuh"

namespace expctr::cuda {

namespace {

constexpr std::int64_t piece = 4 * block_threads;

struct AdamTable {
  static constexpr int capacity = 480;
  float *parameter[capacity], *first_moment[capacity], *second_moment[capacity];
  const float* gradient[capacity];
  std::int64_t elements[capacity];
  std::int32_t first_block[capacity + 1];
  int count;
};

struct AdamStep {
  float decay;         ///< learning rate x decay
  float beta1, rest1;  ///< rest = 1 - beta, rounded once: 1.0f - 0.999f would be off by 1e-5 of itself
  float beta2, rest2;
  float gradient_scale;
  float step_size;        ///< learning rate / (1 - beta1^t)
  float deviation_scale;  ///< 1 / sqrt(1 - beta2^t)
  float epsilon;

  __device__ __forceinline__ void apply(float& p, float g, float& m, float& v) const {
    g *= gradient_scale;
    m = beta1 * m + rest1 * g;
    v = beta2 * v + rest2 * g * g;
    p = (p - decay * p) - step_size * m / (sqrtf(v) * deviation_scale + epsilon);
  }
};

__global__ void __launch_bounds__(block_threads) adamw_kernel(const __grid_constant__ AdamTable table, AdamStep step) {
  int low = 0, high = table.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (table.first_block[middle] <= static_cast<int>(blockIdx.x) ? low : high) = middle;
  }
  const std::int64_t begin = (static_cast<std::int64_t>(blockIdx.x) - table.first_block[low]) * piece, n = table.elements[low];
  float *p = table.parameter[low], *m = table.first_moment[low], *v = table.second_moment[low];
  const float* g = table.gradient[low];
  const std::int64_t i = begin + threadIdx.x * 4;
  if (i + 4 <= n && aligned16(p) && aligned16(m) && aligned16(v) && aligned16(g)) {
    float4 p4 = *reinterpret_cast<float4*>(p + i), m4 = *reinterpret_cast<float4*>(m + i), v4 = *reinterpret_cast<float4*>(v + i);
    const float4 g4 = *reinterpret_cast<const float4*>(g + i);
    step.apply(p4.x, g4.x, m4.x, v4.x);
    step.apply(p4.y, g4.y, m4.y, v4.y);
    step.apply(p4.z, g4.z, m4.z, v4.z);
    step.apply(p4.w, g4.w, m4.w, v4.w);
    *reinterpret_cast<float4*>(p + i) = p4;
    *reinterpret_cast<float4*>(m + i) = m4;
    *reinterpret_cast<float4*>(v + i) = v4;
    return;
  }
  for (std::int64_t j = i; j < i + 4 && j < n; ++j) step.apply(p[j], g[j], m[j], v[j]);
}

}  // namespace

template <>
void run(const AdamW& args, Stream stream) {
  if (args.step < 1) throw Error("cuda: adamw: step " + std::to_string(args.step) + " is below 1", "count steps from 1");
  const double t = static_cast<double>(args.step);
  const AdamStep step{static_cast<float>(args.learning_rate * args.weight_decay),
                      static_cast<float>(args.beta1),
                      static_cast<float>(1.0 - args.beta1),
                      static_cast<float>(args.beta2),
                      static_cast<float>(1.0 - args.beta2),
                      static_cast<float>(args.gradient_scale),
                      static_cast<float>(args.learning_rate / (1.0 - std::pow(args.beta1, t))),
                      static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(args.beta2, t))),
                      static_cast<float>(args.epsilon)};
  AdamTable table;
  table.count = 0;
  table.first_block[0] = 0;
  const auto launch = [&] {
    if (table.count == 0) return;
    adamw_kernel<<<static_cast<unsigned>(table.first_block[table.count]), block_threads, 0, native(stream)>>>(table, step);
    check_launch("adamw");
    table.count = 0;
  };
  for (int i = 0; i < args.count; ++i) {
    const AdamTensor& tensor = args.tensors[i];
    require_f32("adamw", {&tensor.parameter, &tensor.gradient, &tensor.first_moment, &tensor.second_moment});
    const std::int64_t elements = tensor.parameter.size(), blocks = ceil_div(elements, piece);
    if (elements == 0) continue;
    if (table.first_block[table.count] + blocks > 0x7FFFFFFF) launch();
    const int slot = table.count++;
    table.parameter[slot] = tensor.parameter.as<float>();
    table.first_moment[slot] = tensor.first_moment.as<float>();
    table.second_moment[slot] = tensor.second_moment.as<float>();
    table.gradient[slot] = tensor.gradient.as<float>();
    table.elements[slot] = elements;
    table.first_block[slot + 1] = table.first_block[slot] + static_cast<std::int32_t>(blocks);
    if (table.count == AdamTable::capacity) launch();
  }
  launch();
}

}  // namespace expctr::cuda
