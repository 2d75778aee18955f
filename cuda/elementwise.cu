// Elementwise kernels. Each reads its operands once and writes its result once, 4 bytes an element and operand, by 16-byte accesses where
// the pointers allow; a few FLOPs an element (tens for the transcendental functions). All are bound by memory. Gradients of broadcast
// operands are sums in the fixed order of cuda/reduction.cuh.
#include "base/kernels/elementwise.h"
#include "base/philox.h"
#include "base/scalar_math.h"
#include "cuda/broadcast.cuh"
#include "cuda/map.cuh"
#include "cuda/reduction.cuh"
#include "cuda/storage.cuh"

namespace expctr::cuda {

namespace {

struct EvaluateUnary {
  Unary function;
  __device__ void operator()(const float (&in)[1], float (&out)[1]) const { out[0] = scalar::evaluate(function, in[0]); }
};

struct UnaryGradient {
  Unary function;
  __device__ void operator()(const float (&in)[3], float (&out)[1]) const { out[0] = in[2] + in[1] * scalar::derivative(function, in[0]); }
};

struct EvaluateBinary {
  Binary function;
  __device__ float operator()(float a, float b, float) const { return scalar::evaluate(function, a, b); }
  __device__ void operator()(const float (&in)[2], float (&out)[1]) const { out[0] = scalar::evaluate(function, in[0], in[1]); }
};

struct ScaleShift {
  float scale, shift;
  __device__ void operator()(const float (&in)[1], float (&out)[1]) const { out[0] = scale * in[0] + shift; }
};

struct AddScaled {
  float alpha;
  __device__ void operator()(const float (&in)[2], float (&out)[1]) const { out[0] = in[1] + alpha * in[0]; }
};

struct Swiglu {
  __device__ void operator()(const float (&in)[2], float (&out)[1]) const { out[0] = scalar::silu(in[0]) * in[1]; }
};

struct SwigluGateGradient {
  __device__ void operator()(const float (&in)[4], float (&out)[1]) const {
    out[0] = in[3] + in[2] * in[1] * scalar::silu_derivative(in[0]);
  }
};

struct SwigluUpGradient {
  __device__ void operator()(const float (&in)[3], float (&out)[1]) const { out[0] = in[2] + in[1] * scalar::silu(in[0]); }
};

/// Gradient of one operand where it is not repeated: += sign dy (times the other operand). b is absent unless multiplying.
struct OperandGradient {
  float sign;
  bool multiply;
  __device__ float operator()(float dy, float other, float old) const { return old + (multiply ? dy * other : sign * dy); }
};

/// y[i] = f(a[..], b[..], y[i]); four neighbours of the innermost axis a thread when Vector.
template <bool Vector, bool ReadY, class F>
__global__ void __launch_bounds__(block_threads)
    broadcast_kernel(F f, Broadcast shape, bool repeat_a, bool repeat_b, std::int64_t n, const float* a, const float* b, float* y) {
  constexpr int step = Vector ? 4 : 1;
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x) * step;
  if (i >= n) return;
  std::int64_t at_a, at_b;
  shape.offsets(i, at_a, at_b);
  if (Vector) {
    const auto load = [](const float* p, std::int64_t at, bool repeat) {
      if (p == nullptr) return make_float4(0, 0, 0, 0);
      if (!repeat) return *reinterpret_cast<const float4*>(p + at);
      const float value = p[at];
      return make_float4(value, value, value, value);
    };
    const float4 p = load(a, at_a, repeat_a), q = load(b, at_b, repeat_b), old = load(ReadY ? y : nullptr, i, false);
    *reinterpret_cast<float4*>(y + i) = make_float4(f(p.x, q.x, old.x), f(p.y, q.y, old.y), f(p.z, q.z, old.z), f(p.w, q.w, old.w));
  } else {
    y[i] = f(a[at_a], b == nullptr ? 0.0f : b[at_b], ReadY ? y[i] : 0.0f);
  }
}

template <bool ReadY, class F>
void broadcast(const char* name, F f, const View& shape, const View& a, const View& b, const View& y, Stream stream) {
  const std::int64_t n = shape.size();
  if (n == 0) return;
  const Broadcast axes = make_broadcast(shape, a, b);
  const int last = axes.rank - 1;
  bool vector = axes.extent[last] % 4 == 0 && aligned16(a.data) && aligned16(b.data) && aligned16(y.data);
  for (int axis = 0; axis < last; ++axis)  // a row that is not a multiple of 4 would start unaligned
    vector =
        vector && (axes.stride_a[last] == 0 || axes.stride_a[axis] % 4 == 0) && (axes.stride_b[last] == 0 || axes.stride_b[axis] % 4 == 0);
  const bool repeat_a = axes.stride_a[last] == 0, repeat_b = axes.stride_b[last] == 0;
  if (vector)
    broadcast_kernel<true, ReadY><<<blocks_for(n, 4 * block_threads), block_threads, 0, native(stream)>>>(
        f, axes, repeat_a, repeat_b, n, a.as<float>(), b.as<float>(), y.as<float>());
  else
    broadcast_kernel<false, ReadY><<<blocks_for(n, block_threads), block_threads, 0, native(stream)>>>(
        f, axes, repeat_a, repeat_b, n, a.as<float>(), b.as<float>(), y.as<float>());
  check_launch(name);
}

/// dy's axes split into those an operand keeps and those it is summed over.
struct SplitAxes {
  int kept_rank = 0, reduced_rank = 0;
  std::int64_t kept_extent[max_rank], kept_stride[max_rank], kept_other[max_rank];
  std::int64_t reduced_extent[max_rank], reduced_stride[max_rank], reduced_other[max_rank];
};

__device__ __forceinline__ void add_offsets(int rank, const std::int64_t* extent, const std::int64_t* stride, const std::int64_t* other,
                                            std::int64_t i, std::int64_t& at, std::int64_t& at_other) {
#pragma unroll
  for (int axis = max_rank - 1; axis >= 0; --axis) {
    if (axis >= rank) continue;
    const std::int64_t quotient = axis == 0 ? 0 : i / extent[axis], rest = i - quotient * extent[axis];
    at += rest * stride[axis];
    at_other += rest * other[axis];
    i = quotient;
  }
}

struct GradientTerm {
  SplitAxes axes;
  const float *dy, *other;
  float sign;
  __device__ __forceinline__ void operator()(std::int64_t output, std::int64_t r, float (&sums)[1]) const {
    std::int64_t at = 0, at_other = 0;
    add_offsets(axes.kept_rank, axes.kept_extent, axes.kept_stride, axes.kept_other, output, at, at_other);
    add_offsets(axes.reduced_rank, axes.reduced_extent, axes.reduced_stride, axes.reduced_other, r, at, at_other);
    sums[0] += other == nullptr ? sign * dy[at] : dy[at] * other[at_other];
  }
};

struct AddInto {
  float* y;
  __device__ void operator()(std::int64_t output, const float (&sums)[1]) const { y[output] += sums[0]; }
};

/// Axes of dy that the operand keeps (stride_a != 0) and that it is summed over; `other` strides are 0 unless multiplying.
SplitAxes split(const Broadcast& axes) {
  SplitAxes result;
  std::int64_t strides[max_rank];
  std::int64_t step = 1;
  for (int axis = axes.rank - 1; axis >= 0; --axis) {
    strides[axis] = step;
    step *= axes.extent[axis];
  }
  for (int axis = 0; axis < axes.rank; ++axis) {
    if (axes.stride_a[axis] != 0) {
      result.kept_extent[result.kept_rank] = axes.extent[axis];
      result.kept_stride[result.kept_rank] = strides[axis];
      result.kept_other[result.kept_rank++] = axes.stride_b[axis];
    } else {
      result.reduced_extent[result.reduced_rank] = axes.extent[axis];
      result.reduced_stride[result.reduced_rank] = strides[axis];
      result.reduced_other[result.reduced_rank++] = axes.stride_b[axis];
    }
  }
  return result;
}

/// The sums that the gradient of `operand` needs; outputs 0 when it is absent or nothing is summed.
ReductionPlan gradient_plan(const View& operand, const View& gradient, const View& dy) {
  if (gradient.empty() || operand.size() == 0 || operand.size() == dy.size()) return {};
  return plan_reduction(operand.size(), dy.size() / operand.size());
}

void operand_gradient(const BinaryBackward& args, const View& operand, const View& other, const View& gradient, float sign, Stream stream) {
  if (gradient.empty() || operand.size() == 0) return;
  const bool multiply = args.function == Binary::multiply;
  const View used = multiply ? other : View{};
  if (operand.size() == args.dy.size())
    return broadcast<true>("binary_backward", OperandGradient{sign, multiply}, args.dy, args.dy, used, gradient, stream);
  const ReductionPlan plan = gradient_plan(operand, gradient, args.dy);
  const Broadcast axes = make_broadcast(args.dy, operand, used);
  const GradientTerm term{split(axes), args.dy.as<float>(), used.as<float>(), sign};
  const AddInto store{gradient.as<float>()};
  if (axes.stride_a[axes.rank - 1] == 0)
    reduce<1, true>("binary_backward", plan, term, store, args.scratch.data, stream);
  else
    reduce<1, false>("binary_backward", plan, term, store, args.scratch.data, stream);
}

template <class T>
struct alignas(16) Pack {
  static constexpr int size = 16 / sizeof(T);
  T values[size];
};

/// A thread writes 16 bytes where they are whole and aligned.
template <class T>
__global__ void __launch_bounds__(block_threads) fill_kernel(T value, bool vector, std::int64_t n, T* y) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x) * Pack<T>::size;
  if (vector && i + Pack<T>::size <= n) {
    Pack<T> pack;
#pragma unroll
    for (int k = 0; k < Pack<T>::size; ++k) pack.values[k] = value;
    *reinterpret_cast<Pack<T>*>(y + i) = pack;
    return;
  }
  for (std::int64_t k = i; k < i + Pack<T>::size && k < n; ++k) y[k] = value;
}

template <class T>
void fill(const Fill& args, T value, Stream stream) {
  const std::int64_t n = args.y.size();
  if (n == 0) return;
  fill_kernel<<<blocks_for(n, block_threads * Pack<T>::size), block_threads, 0, native(stream)>>>(value, aligned16(args.y.data), n,
                                                                                                  args.y.as<T>());
  check_launch("fill");
}

struct Bf16 {
  std::uint16_t bits;
};
__device__ __forceinline__ void store_converted(float* y, std::int64_t i, float value) { y[i] = value; }
__device__ __forceinline__ void store_converted(float* y, std::int64_t i, double value) { y[i] = static_cast<float>(value); }
__device__ __forceinline__ void store_converted(double* y, std::int64_t i, double value) { y[i] = value; }
__device__ __forceinline__ void store_converted(Bf16* y, std::int64_t i, double value) {
  y[i].bits = bf16_of_float(static_cast<float>(value));
}
__device__ __forceinline__ void store_converted(Bf16* y, std::int64_t i, float value) { y[i].bits = bf16_of_float(value); }

template <class Storage, class Y>
__global__ void __launch_bounds__(block_threads) convert_kernel(const void* x, std::int64_t n, Y* y) {
  const std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * (4 * block_threads) + threadIdx.x;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const std::int64_t i = start + step * block_threads;
    if (i < n) store_converted(y, i, Storage::load(x, i));
  }
}

/// f32 to bf16, 16 bytes in and 8 out a thread: what every product in bf16 begins with.
__global__ void __launch_bounds__(block_threads) round_to_bf16_kernel(const float* x, std::int64_t n, std::uint16_t* y) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x) * 4;
  if (i + 4 <= n) {
    const float4 v = *reinterpret_cast<const float4*>(x + i);
    *reinterpret_cast<ushort4*>(y + i) = make_ushort4(bf16_of_float(v.x), bf16_of_float(v.y), bf16_of_float(v.z), bf16_of_float(v.w));
    return;
  }
  for (std::int64_t k = i; k < n; ++k) y[k] = bf16_of_float(x[k]);
}

/// One thread a group of 4 columns of a row, so that one call of philox serves 4 elements.
template <bool Vector>
__global__ void __launch_bounds__(block_threads)
    dropout_kernel(float probability, float scale, RandomKey key, std::uint32_t step, std::uint32_t channel, bool accumulate,
                   std::int64_t rows, std::int64_t width, const float* x, const std::int32_t* sample, float* y) {
  const std::int64_t groups = ceil_div(width, 4), i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (i >= rows * groups) return;
  const std::int64_t row = i / groups, group = i - row * groups, at = row * width + group * 4;
  const RandomBits bits = philox(key, {step, static_cast<std::uint32_t>(sample[row]), static_cast<std::uint32_t>(group), channel});
  const auto apply = [&](float value, int lane) { return uniform_float(bits.word[lane]) >= probability ? value * scale : 0.0f; };
  if (Vector) {
    const float4 v = *reinterpret_cast<const float4*>(x + at);
    float4 result = make_float4(apply(v.x, 0), apply(v.y, 1), apply(v.z, 2), apply(v.w, 3));
    if (accumulate) {
      const float4 old = *reinterpret_cast<const float4*>(y + at);
      result = make_float4(old.x + result.x, old.y + result.y, old.z + result.z, old.w + result.w);
    }
    *reinterpret_cast<float4*>(y + at) = result;
  } else {
#pragma unroll
    for (int lane = 0; lane < 4; ++lane)
      if (group * 4 + lane < width) y[at + lane] = (accumulate ? y[at + lane] : 0.0f) + apply(x[at + lane], lane);
  }
}

}  // namespace

template <>
void run(const UnaryForward& args, Stream stream) {
  require_f32("unary", {&args.x, &args.y});
  map<1, 1>("unary", EvaluateUnary{args.function}, args.y.size(), {{args.x.as<float>()}}, {{args.y.as<float>()}}, stream);
}

template <>
void run(const UnaryBackward& args, Stream stream) {
  require_f32("unary_backward", {&args.x, &args.dy, &args.dx});
  map<3, 1>("unary_backward", UnaryGradient{args.function}, args.dx.size(),
            {{args.x.as<float>(), args.dy.as<float>(), args.dx.as<float>()}}, {{args.dx.as<float>()}}, stream);
}

template <>
void run(const BinaryForward& args, Stream stream) {
  require_f32("binary", {&args.a, &args.b, &args.y});
  const std::int64_t n = args.y.size();
  if (args.a.size() == n && args.b.size() == n)
    return map<2, 1>("binary", EvaluateBinary{args.function}, n, {{args.a.as<float>(), args.b.as<float>()}}, {{args.y.as<float>()}},
                     stream);
  broadcast<false>("binary", EvaluateBinary{args.function}, args.y, args.a, args.b, args.y, stream);
}

template <>
std::size_t scratch_bytes(const BinaryBackward& args) {
  // The two gradients are computed one after the other in the same memory.
  return std::max(gradient_plan(args.a, args.da, args.dy).bytes(1), gradient_plan(args.b, args.db, args.dy).bytes(1));
}

template <>
void run(const BinaryBackward& args, Stream stream) {
  require_f32("binary_backward", {&args.a, &args.b, &args.dy, &args.da, &args.db});
  require_scratch("binary_backward", args.scratch, scratch_bytes(args));
  operand_gradient(args, args.a, args.b, args.da, 1.0f, stream);
  operand_gradient(args, args.b, args.a, args.db, args.function == Binary::subtract ? -1.0f : 1.0f, stream);
}

template <>
void run(const Affine& args, Stream stream) {
  require_f32("affine", {&args.x, &args.y});
  map<1, 1>("affine", ScaleShift{static_cast<float>(args.scale), static_cast<float>(args.shift)}, args.y.size(), {{args.x.as<float>()}},
            {{args.y.as<float>()}}, stream);
}

template <>
void run(const Axpy& args, Stream stream) {
  require_f32("axpy", {&args.x, &args.y});
  map<2, 1>("axpy", AddScaled{static_cast<float>(args.alpha)}, args.y.size(), {{args.x.as<float>(), args.y.as<float>()}},
            {{args.y.as<float>()}}, stream);
}

template <>
void run(const Fill& args, Stream stream) {
  switch (args.y.dtype) {
    case DType::f32:
      return fill(args, static_cast<float>(args.value), stream);
    case DType::f64:
      return fill(args, args.value, stream);
    case DType::bf16:
      return fill(args, bf16_of_float(static_cast<float>(args.value)), stream);
    case DType::i32:
      return fill(args, static_cast<std::int32_t>(args.value), stream);
    case DType::i64:
      return fill(args, static_cast<std::int64_t>(args.value), stream);
    case DType::u8:
      return fill(args, static_cast<std::uint8_t>(args.value), stream);
    default:
      throw Error(std::string("cuda: fill cannot write elements of type ") + dtype_name(args.y.dtype));
  }
}

template <>
void run(const Convert& args, Stream stream) {
  const std::int64_t n = args.y.size();
  if (n == 0) return;
  if (args.x.dtype == DType::f32 && args.y.dtype == DType::bf16 && aligned16(args.x.data) && aligned16(args.y.data)) {
    round_to_bf16_kernel<<<blocks_for(n, 4 * block_threads), block_threads, 0, native(stream)>>>(args.x.as<float>(), n,
                                                                                                 args.y.as<std::uint16_t>());
    return check_launch("convert");
  }
  dispatch_storage("convert", args.x.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    const unsigned blocks = blocks_for(n, 4 * block_threads);
    switch (args.y.dtype) {
      case DType::f32:
        convert_kernel<Storage><<<blocks, block_threads, 0, native(stream)>>>(args.x.data, n, args.y.as<float>());
        break;
      case DType::f64:
        convert_kernel<Storage><<<blocks, block_threads, 0, native(stream)>>>(args.x.data, n, args.y.as<double>());
        break;
      case DType::bf16:
        convert_kernel<Storage><<<blocks, block_threads, 0, native(stream)>>>(args.x.data, n, args.y.as<Bf16>());
        break;
      default:
        throw Error(std::string("cuda: convert cannot write elements of type ") + dtype_name(args.y.dtype), "convert to f32, f64 or bf16");
    }
  });
  check_launch("convert");
}

template <>
void run(const SwigluForward& args, Stream stream) {
  require_f32("swiglu", {&args.gate, &args.up, &args.y});
  map<2, 1>("swiglu", Swiglu{}, args.y.size(), {{args.gate.as<float>(), args.up.as<float>()}}, {{args.y.as<float>()}}, stream);
}

template <>
void run(const SwigluBackward& args, Stream stream) {
  require_f32("swiglu_backward", {&args.gate, &args.up, &args.dy, &args.dgate, &args.dup});
  if (!args.dgate.empty())
    map<4, 1>("swiglu_backward", SwigluGateGradient{}, args.dgate.size(),
              {{args.gate.as<float>(), args.up.as<float>(), args.dy.as<float>(), args.dgate.as<float>()}}, {{args.dgate.as<float>()}},
              stream);
  if (!args.dup.empty())
    map<3, 1>("swiglu_backward", SwigluUpGradient{}, args.dup.size(), {{args.gate.as<float>(), args.dy.as<float>(), args.dup.as<float>()}},
              {{args.dup.as<float>()}}, stream);
}

template <>
void run(const Dropout& args, Stream stream) {
  require_f32("dropout", {&args.x, &args.y});
  require("dropout", DType::i32, {&args.sample});
  const std::int64_t rows = args.x.rows(), width = args.x.width();
  if (rows * width == 0) return;
  const float scale = 1.0f / (1.0f - args.probability);
  const RandomKey key{args.key_low, args.key_high};
  const unsigned blocks = blocks_for(rows * ceil_div(width, 4), block_threads);
  const bool vector = width % 4 == 0 && aligned16(args.x.data) && aligned16(args.y.data);
  (vector ? dropout_kernel<true> : dropout_kernel<false>)<<<blocks, block_threads, 0, native(stream)>>>(
      args.probability, scale, key, args.step, args.channel, args.accumulate, rows, width, args.x.as<float>(),
      args.sample.as<std::int32_t>(), args.y.as<float>());
  check_launch("dropout");
}

}  // namespace expctr::cuda
