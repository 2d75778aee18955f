// Elementwise kernels over equal shapes. Each reads its operands once and writes its result once, by 16-byte accesses where the pointers
// allow: 4 bytes (f32) or 2 (bf16) an element and operand; a few FLOPs an element (tens for the transcendental functions). All are bound
// by memory. Arithmetic is in float whatever the storage; the functions stand in base/scalar_math.h.
#include "base/kernels/elementwise.h"
#include "base/philox.h"
#include "base/scalar_math.h"
#include "cuda/map.cuh"
#include "cuda/storage.cuh"

namespace expctr::cuda {

namespace {

/// The function is chosen once a packet.
struct EvaluateUnary {
  Unary function;
  scalar::Parameters<float> parameters;
  template <int N>
  __device__ __forceinline__ void apply(const float (&in)[1][N], float (&out)[1][N]) const {
    scalar::with_unary(function, [&](auto tag) {
#pragma unroll
      for (int i = 0; i < N; ++i) out[0][i] = scalar::evaluate(tag.value, in[0][i], parameters);
    });
  }
};

/// x, dy, dx -> dx.
struct UnaryGradient {
  Unary function;
  scalar::Parameters<float> parameters;
  template <int N>
  __device__ __forceinline__ void apply(const float (&in)[3][N], float (&out)[1][N]) const {
    scalar::with_unary(function, [&](auto tag) {
#pragma unroll
      for (int i = 0; i < N; ++i) out[0][i] = in[2][i] + in[1][i] * scalar::derivative(tag.value, in[0][i], parameters);
    });
  }
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

/// gate, up, dy, dgate, dup -> dgate, dup.
struct SwigluGradients {
  __device__ void operator()(const float (&in)[5], float (&out)[2]) const {
    const float s = scalar::sigmoid(in[0]);
    out[0] = in[3] + in[2] * in[1] * (s * (1.0f + in[0] * (1.0f - s)));
    out[1] = in[4] + in[2] * (in[0] * s);
  }
};

struct SwigluGateGradient {
  __device__ void operator()(const float (&in)[4], float (&out)[1]) const {
    out[0] = in[3] + in[2] * in[1] * scalar::silu_derivative(in[0]);
  }
};

struct SwigluUpGradient {
  __device__ void operator()(const float (&in)[3], float (&out)[1]) const { out[0] = in[2] + in[1] * scalar::silu(in[0]); }
};

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

__device__ __forceinline__ void store_converted(float* y, std::int64_t i, double value) { y[i] = static_cast<float>(value); }
__device__ __forceinline__ void store_converted(double* y, std::int64_t i, double value) { y[i] = value; }
__device__ __forceinline__ void store_converted(Bf16* y, std::int64_t i, double value) { store_element(y + i, static_cast<float>(value)); }

template <class Storage, class Y>
__global__ void __launch_bounds__(block_threads) convert_kernel(const void* x, std::int64_t n, Y* y) {
  const std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * (4 * block_threads) + threadIdx.x;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const std::int64_t i = start + step * block_threads;
    if (i < n) store_converted(y, i, Storage::load(x, i));
  }
}

struct Copy {
  __device__ void operator()(const float (&in)[1], float (&out)[1]) const { out[0] = in[0]; }
};

/// One thread a group of N columns of a row, a call of philox for 4 of them.
template <int N, class S>
__global__ void __launch_bounds__(block_threads)
    dropout_kernel(float probability, float scale, RandomKey key, std::uint32_t step, std::uint32_t channel, bool accumulate,
                   std::int64_t rows, std::int64_t width, const S* x, const std::int32_t* sample, S* y) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  std::int64_t packet;
  const std::int64_t row = divide(i, ceil_div(width, N == 1 ? 4 : N), packet);
  if (row >= rows) return;
  const auto sample_id = static_cast<std::uint32_t>(sample[row]);
  const auto apply = [&](std::uint32_t word, float value) { return uniform_float(word) >= probability ? value * scale : 0.0f; };
  if constexpr (N > 1) {
    const std::int64_t at = row * width + packet * N;
    float value[N], old[N] = {};
    load_packet(x + at, value);
    if (accumulate) load_packet(y + at, old);
#pragma unroll
    for (int c = 0; c < N; c += 4) {
      const RandomBits bits = philox(key, {step, sample_id, static_cast<std::uint32_t>(packet * (N / 4) + c / 4), channel});
#pragma unroll
      for (int lane = 0; lane < 4; ++lane) old[c + lane] += apply(bits.word[lane], value[c + lane]);
    }
    store_packet(y + at, old);
  } else {
    const std::int64_t at = row * width + packet * 4;
    const RandomBits bits = philox(key, {step, sample_id, static_cast<std::uint32_t>(packet), channel});
#pragma unroll
    for (int lane = 0; lane < 4; ++lane)
      if (packet * 4 + lane < width)
        store_element(y + at + lane, (accumulate ? widen(y[at + lane]) : 0.0f) + apply(bits.word[lane], widen(x[at + lane])));
  }
}

}  // namespace

template <>
void run(const UnaryForward& args, Stream stream) {
  const DType dtype = require_activations("unary", {&args.x, &args.y});
  map("unary", dtype, EvaluateUnary{args.function, scalar::Parameters<float>(args.parameters)}, args.y.size(), {args.x}, {args.y}, stream);
}

template <>
void run(const UnaryBackward& args, Stream stream) {
  const DType dtype = require_activations("unary_backward", {&args.x, &args.dy, &args.dx});
  map("unary_backward", dtype, UnaryGradient{args.function, scalar::Parameters<float>(args.parameters)}, args.dx.size(),
      {args.x, args.dy, args.dx}, {args.dx}, stream);
}

template <>
void run(const Affine& args, Stream stream) {
  const DType dtype = require_activations("affine", {&args.x, &args.y});
  map("affine", dtype, ScaleShift{static_cast<float>(args.scale), static_cast<float>(args.shift)}, args.y.size(), {args.x}, {args.y},
      stream);
}

template <>
void run(const Axpy& args, Stream stream) {
  const DType x = require_activations("axpy", {&args.x}), y = require_activations("axpy", {&args.y});
  const AddScaled add{static_cast<float>(args.alpha)};
  const std::int64_t n = args.y.size();
  if (x == y) return map("axpy", x, add, n, {args.x, args.y}, {args.y}, stream);
  if (y == DType::f32) return map<FloatOperands<2, 1>>("axpy", DType::bf16, add, n, {args.x, args.y}, {args.y}, stream);
  map<FloatOperands<1>>("axpy", DType::bf16, add, n, {args.x, args.y}, {args.y}, stream);
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
  const bool to_bf16 = args.x.dtype == DType::f32 && args.y.dtype == DType::bf16;
  if (to_bf16) return map<FloatOperands<1>>("convert", DType::bf16, Copy{}, n, {args.x}, {args.y}, stream);
  const bool from_bf16 = args.x.dtype == DType::bf16 && args.y.dtype == DType::f32;
  if (from_bf16) return map<FloatOperands<0, 1>>("convert", DType::bf16, Copy{}, n, {args.x}, {args.y}, stream);
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
  const DType dtype = require_activations("swiglu", {&args.gate, &args.up, &args.y});
  map("swiglu", dtype, Swiglu{}, args.y.size(), {args.gate, args.up}, {args.y}, stream);
}

template <>
void run(const SwigluBackward& args, Stream stream) {
  const DType dtype = require_activations("swiglu_backward", {&args.gate, &args.up, &args.dy, &args.dgate, &args.dup});
  const std::int64_t n = args.gate.size();
  if (!args.dgate.empty() && !args.dup.empty())
    return map("swiglu_backward", dtype, SwigluGradients{}, n, {args.gate, args.up, args.dy, args.dgate, args.dup}, {args.dgate, args.dup},
               stream);
  if (!args.dgate.empty())
    map("swiglu_backward", dtype, SwigluGateGradient{}, n, {args.gate, args.up, args.dy, args.dgate}, {args.dgate}, stream);
  if (!args.dup.empty()) map("swiglu_backward", dtype, SwigluUpGradient{}, n, {args.gate, args.dy, args.dup}, {args.dup}, stream);
}

template <>
void run(const Dropout& args, Stream stream) {
  const DType dtype = require_activations("dropout", {&args.x, &args.y});
  require("dropout", DType::i32, {&args.sample});
  const std::int64_t rows = args.x.rows(), width = args.x.width();
  if (rows * width == 0) return;
  const float scale = 1.0f / (1.0f - args.probability);
  const RandomKey key{args.key_low, args.key_high};
  dispatch_activation(dtype, [&](auto storage) {
    using S = decltype(storage);
    const auto launch = [&](auto packet) {
      constexpr int N = decltype(packet)::value;
      dropout_kernel<N><<<blocks_for(rows * ceil_div(width, N == 1 ? 4 : N), block_threads), block_threads, 0, native(stream)>>>(
          args.probability, scale, key, args.step, args.channel, args.accumulate, rows, width, args.x.as<const S>(),
          args.sample.as<const std::int32_t>(), args.y.as<S>());
    };
    if (packets_fit<packet_size<S>>(width, {&args.x, &args.y}))
      launch(std::integral_constant<int, packet_size<S>>{});
    else
      launch(std::integral_constant<int, 1>{});
  });
  check_launch("dropout");
}

}  // namespace expctr::cuda
