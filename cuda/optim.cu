// AdamW over all tensors in one launch: the table of tensors travels by value in the kernel's parameters (constant memory, so that looking
// up a block's tensor costs no traffic, and a captured launch keeps it), up to 720 tensors a launch. Reads parameter, gradient and both
// moments and writes three of them: 28 bytes an element, about 15 FLOPs; bound by memory. With `control` a launch of one thread before it
// computes the step's factors on the device, in double.
#include "base/kernels/optim.h"
#include "cuda/launch.cuh"

namespace expctr::cuda {

namespace {

constexpr std::int64_t piece = 4 * block_threads;

struct AdamTable {
  static constexpr int capacity = 720;
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

  /// Rounded once, from double.
  static __host__ __device__ AdamStep of(double rate, double decay, double beta1, double beta2, double epsilon, double scale, double t) {
    return {static_cast<float>(rate * decay),
            static_cast<float>(beta1),
            static_cast<float>(1.0 - beta1),
            static_cast<float>(beta2),
            static_cast<float>(1.0 - beta2),
            static_cast<float>(scale),
            static_cast<float>(rate / (1.0 - pow(beta1, t))),
            static_cast<float>(1.0 / sqrt(1.0 - pow(beta2, t))),
            static_cast<float>(epsilon)};
  }

  __device__ __forceinline__ void apply(float& p, float g, float& m, float& v) const {
    g *= gradient_scale;
    m = beta1 * m + rest1 * g;
    v = beta2 * v + rest2 * g * g;
    p = (p - decay * p) - step_size * m / (sqrtf(v) * deviation_scale + epsilon);
  }
};

__global__ void adamw_factors_kernel(double decay, double beta1, double beta2, double epsilon, const double* control, AdamStep* step) {
  *step = AdamStep::of(control[0], decay, beta1, beta2, epsilon, control[2], control[1]);
}

/// `on_device`, where it is not null, holds the step that is used instead of `given`.
__global__ void __launch_bounds__(block_threads)
    adamw_kernel(const __grid_constant__ AdamTable table, AdamStep given, const AdamStep* on_device) {
  __shared__ AdamStep shared;
  if (on_device != nullptr) {
    if (threadIdx.x == 0) shared = *on_device;
    __syncthreads();
  }
  const AdamStep step = on_device != nullptr ? shared : given;
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

__global__ void advance_step_kernel(double most, const double* total, double* control) {
  control[1] += 1.0;
  const double scale = most / (sqrt(*total) + 1e-6);
  control[2] = most <= 0.0 || scale > 1.0 ? 1.0 : scale;
}

}  // namespace

template <>
std::size_t scratch_bytes(const AdamW& args) {
  return args.control.empty() ? 0 : sizeof(AdamStep);
}

template <>
void run(const AdamW& args, Stream stream) {
  AdamStep* on_device = nullptr;
  AdamStep step{};
  if (!args.control.empty()) {
    require("adamw", DType::f64, {&args.control});
    require_scratch("adamw", args.scratch, sizeof(AdamStep));
    if (args.control.size() != 3) throw ShapeError("cuda: adamw: control must be f64 [3]");
    on_device = args.scratch.as<AdamStep>();
    adamw_factors_kernel<<<1, 1, 0, native(stream)>>>(args.weight_decay, args.beta1, args.beta2, args.epsilon, args.control.as<double>(),
                                                      on_device);
    check_launch("adamw");
  } else {
    if (args.step < 1) throw Error("cuda: adamw: step " + std::to_string(args.step) + " is below 1", "count steps from 1");
    step = AdamStep::of(args.learning_rate, args.weight_decay, args.beta1, args.beta2, args.epsilon, args.gradient_scale,
                        static_cast<double>(args.step));
  }
  AdamTable table;
  table.count = 0;
  table.first_block[0] = 0;
  const auto launch = [&] {
    if (table.count == 0) return;
    adamw_kernel<<<static_cast<unsigned>(table.first_block[table.count]), block_threads, 0, native(stream)>>>(table, step, on_device);
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

template <>
void run(const AdvanceStep& args, Stream stream) {
  require("advance_step", DType::f64, {&args.total, &args.control});
  if (args.total.size() != 1 || args.control.size() != 3) throw ShapeError("cuda: advance_step: total must be f64 [1] and control f64 [3]");
  advance_step_kernel<<<1, 1, 0, native(stream)>>>(args.most, args.total.as<double>(), args.control.as<double>());
  check_launch("advance_step");
}

}  // namespace expctr::cuda
