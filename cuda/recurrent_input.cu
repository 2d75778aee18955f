// The product of all time steps with a layer's input weights, one cuBLASLt call: 2 steps columns width FLOPs. bf16 activations are
// multiplied by the weights rounded to bf16, with float32 sums; results are rounded once. The weight's gradient stays float32.
#include "base/blocks.h"
#include "base/kernels/recurrent.h"
#include "cuda/gemm.h"
#include "cuda/launch.cuh"

namespace expctr::cuda {

namespace {

/// y (+)= x in bf16, a thread four elements where both sides allow, else one. Accumulate: y is read first.
template <bool Accumulate, int Per>
__global__ void __launch_bounds__(block_threads) round_kernel(std::int64_t items, const float* x, std::uint16_t* y) {
  const std::int64_t item = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (item >= items) return;
  struct __align__(4 * Per) Floats {
    float part[Per];
  }
  const from = reinterpret_cast<const Floats*>(x)[item];
  struct __align__(2 * Per) Halves {
    std::uint16_t part[Per];
  }
  to = {};
  if (Accumulate) to = reinterpret_cast<const Halves*>(y)[item];
#pragma unroll
  for (int i = 0; i < Per; ++i) to.part[i] = bf16_of_float(from.part[i] + (Accumulate ? float_of_bf16(to.part[i]) : 0.0f));
  reinterpret_cast<Halves*>(y)[item] = to;
}

template <bool Accumulate>
void round_to(const float* x, std::int64_t n, std::uint16_t* y, Stream stream) {
  if (n == 0) return;
  const bool vector = n % 4 == 0 && aligned16(x) && reinterpret_cast<std::uintptr_t>(y) % 8 == 0;
  const std::int64_t items = vector ? n / 4 : n;
  (vector ? round_kernel<Accumulate, 4>
          : round_kernel<Accumulate, 1>)<<<blocks_for(items, block_threads), block_threads, 0, native(stream)>>>(items, x, y);
  check_launch("recurrent_input_round");
}

std::size_t aligned(std::int64_t bytes) { return static_cast<std::size_t>(bytes + 255) / 256 * 256; }

/// The weights in bf16, then a float32 result.
std::size_t staging(const View& x, const View& weight, std::int64_t result) {
  return x.dtype == DType::bf16 ? aligned(2 * weight.size()) + aligned(4 * result) : 0;
}

void check(const char* kernel, const View& x, const View& weight, const View& projected) {
  if (x.rank != 3 || weight.rank != 2 || projected.rank != 3 || projected.rows() != x.rows() || projected.shape[2] != weight.shape[0] ||
      x.shape[2] != weight.shape[1])
    throw ShapeError(std::string("cuda: ") + kernel + " takes x [batch, time, width], weight [columns, width] and [batch, time, columns]");
  require(kernel, x.dtype, {&projected});
  if (x.dtype != DType::bf16) require_f32(kernel, {&x});
  require_f32(kernel, {&weight});
}

/// c (+)= op(a) op(b) with dense operands of x's dtype and float32 c.
Gemm product_of(const View& x, std::int64_t m, std::int64_t n, std::int64_t k, const void* a, const void* b, float* c) {
  Gemm product;
  product.operands = x.dtype;
  product.m = m;
  product.n = n;
  product.k = k;
  product.a = a;
  product.b = b;
  product.c = c;
  return product;
}

}  // namespace

template <>
std::size_t scratch_bytes(const RecurrentInput& args) {
  return staging(args.x, args.weight, args.projected.size());
}

template <>
void run(const RecurrentInput& args, Stream stream) {
  const char* kernel = "recurrent_input";
  check(kernel, args.x, args.weight, args.projected);
  require_scratch(kernel, args.scratch, scratch_bytes(args));
  const std::int64_t steps = args.x.rows(), columns = args.weight.shape[0], width = args.weight.shape[1];
  const bool half = args.x.dtype == DType::bf16;
  std::uint16_t* weight = args.scratch.as<std::uint16_t>();
  float* result = half ? reinterpret_cast<float*>(args.scratch.as<char>() + aligned(2 * args.weight.size())) : args.projected.as<float>();
  if (half) round_to<false>(args.weight.as<const float>(), args.weight.size(), weight, stream);
  Gemm product = product_of(args.x, steps, columns, width, args.x.data, half ? weight : args.weight.data, result);
  product.transpose_b = true;
  gemm(product, stream);
  if (half) round_to<false>(result, args.projected.size(), args.projected.as<std::uint16_t>(), stream);
}

template <>
std::size_t scratch_bytes(const RecurrentInputBackward& args) {
  return args.dx.empty() ? 0 : staging(args.x, args.weight, args.x.size());
}

template <>
void run(const RecurrentInputBackward& args, Stream stream) {
  const char* kernel = "recurrent_input_backward";
  check(kernel, args.x, args.weight, args.dprojected);
  require(kernel, args.x.dtype, {&args.dx});
  require_f32(kernel, {&args.dweight});
  require_scratch(kernel, args.scratch, scratch_bytes(args));
  const std::int64_t steps = args.x.rows(), columns = args.weight.shape[0], width = args.weight.shape[1];
  const bool half = args.x.dtype == DType::bf16;
  if (!args.dx.empty()) {
    std::uint16_t* weight = args.scratch.as<std::uint16_t>();
    float* result = half ? reinterpret_cast<float*>(args.scratch.as<char>() + aligned(2 * args.weight.size())) : args.dx.as<float>();
    if (half) round_to<false>(args.weight.as<const float>(), args.weight.size(), weight, stream);
    Gemm product = product_of(args.x, steps, width, columns, args.dprojected.data, half ? weight : args.weight.data, result);
    product.beta = half ? 0.0f : 1.0f;
    gemm(product, stream);
    if (half) round_to<true>(result, args.dx.size(), args.dx.as<std::uint16_t>(), stream);
  }
  if (!args.dweight.empty()) {
    Gemm product = product_of(args.x, columns, width, steps, args.dprojected.data, args.x.data, args.dweight.as<float>());
    product.transpose_a = true;
    product.beta = 1;
    gemm(product, stream);
  }
}

}  // namespace expctr::cuda
