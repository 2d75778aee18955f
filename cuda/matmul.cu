// Dense products. One cuBLASLt call, f32 throughout (no TF32) or bf16 operands with float32 accumulation: 2 m n k FLOPs; see cuda/gemm.cu
// for what bounds it. An f32 operand beside a bf16 one (a trained weight) is rounded to bf16 in scratch first: 6 bytes an element more,
// read and written once. Bias, relu and gelu_tanh ride in the product's epilogue. The exact gelu, and a kept gelu_tanh argument whose rows
// are not whole 16 bytes, take one more pass over c: 8 to 12 bytes an element, memory bound.
#include "base/kernels/elementwise.h"
#include "base/kernels/matmul.h"
#include "base/scalar_math.h"
#include "cuda/gemm.h"
#include "cuda/storage.cuh"

namespace expctr::cuda {

namespace {

std::int64_t rounded_up(std::int64_t bytes) { return ceil_div(bytes, 256) * 256; }

bool in_bf16(const MatMul& args) { return args.a.dtype == DType::bf16 || args.b.dtype == DType::bf16; }

/// Scratch of one operand, and of the bias, as bf16.
std::int64_t bf16_bytes(const MatMul& args, const View& view) {
  return in_bf16(args) && view.dtype == DType::f32 ? rounded_up(view.size() * 2) : 0;
}
std::int64_t bias_bytes(const MatMul& args) {
  return !args.bias.empty() && args.c.dtype == DType::bf16 ? rounded_up(args.bias.size() * 2) : 0;
}

/// y = activation(x), in place where they are the same.
template <class Storage, class T>
__global__ void __launch_bounds__(block_threads) activate_kernel(Activation activation, const void* x, std::int64_t n, void* y) {
  const std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * (4 * block_threads) + threadIdx.x;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const std::int64_t i = start + step * block_threads;
    if (i >= n) return;
    float value = Storage::load(x, i);
    if (activation == Activation::relu) value = scalar::evaluate(Unary::relu, value);
    if (activation == Activation::gelu_tanh) value = scalar::gelu_tanh(value);
    if (activation == Activation::gelu) value = scalar::gelu(value);
    if constexpr (sizeof(T) == 2)
      static_cast<T*>(y)[i] = bf16_of_float(value);
    else
      static_cast<T*>(y)[i] = value;
  }
}

View as_bf16(const View& view, char* scratch, Stream stream) {
  View narrow = view;
  narrow.dtype = DType::bf16;
  narrow.data = scratch;
  run(Convert{view, narrow}, stream);
  return narrow;
}

}  // namespace

template <>
std::size_t scratch_bytes(const MatMul& args) {
  return static_cast<std::size_t>(bf16_bytes(args, args.a) + bf16_bytes(args, args.b) + bias_bytes(args));
}

template <>
void run(const MatMul& args, Stream stream) {
  for (const View* view : {&args.a, &args.b, &args.c, &args.before_activation})
    if (view->dtype != DType::bf16) require_f32("matmul", {view});
  require_f32("matmul", {&args.bias});
  const View &a = args.a, &b = args.b, &c = args.c;
  const int rank = c.rank;
  if ((rank != 2 && rank != 3) || a.rank != rank || b.rank != rank)
    throw ShapeError("cuda: matmul takes operands of rank 2, or all of rank 3");
  const std::int64_t batches = rank == 3 ? c.shape[0] : 1;
  if (rank == 3)
    for (const View* view : {&a, &b})
      if (view->shape[0] != batches && view->shape[0] != 1)
        throw ShapeError("cuda: matmul: batches differ", "equal first extents, or 1 to share a matrix");
  if (!in_bf16(args) && c.dtype == DType::bf16)
    throw ShapeError("cuda: matmul: f32 operands, bf16 result", "the result of f32 operands is f32");
  require_scratch("matmul", args.scratch, scratch_bytes(args));
  char* scratch = args.scratch.as<char>();
  Gemm product;
  product.batches = batches;
  product.share_a = rank == 3 && batches > 1 && a.shape[0] == 1;
  product.share_b = rank == 3 && batches > 1 && b.shape[0] == 1;
  product.m = c.shape[rank - 2];
  product.n = c.shape[rank - 1];
  product.k = args.transpose_a ? a.shape[rank - 2] : a.shape[rank - 1];
  product.transpose_a = args.transpose_a;
  product.transpose_b = args.transpose_b;
  product.operands = in_bf16(args) ? DType::bf16 : DType::f32;
  product.result = c.dtype;
  if (c.size() != 0 && product.k != 0) {
    product.a = bf16_bytes(args, a) != 0 ? as_bf16(a, scratch, stream).data : a.data;
    product.b = bf16_bytes(args, b) != 0 ? as_bf16(b, scratch + bf16_bytes(args, a), stream).data : b.data;
  }
  product.c = c.data;
  product.alpha = static_cast<float>(args.alpha);
  product.beta = args.accumulate ? 1.0f : 0.0f;
  if (!args.bias.empty() && c.size() != 0)
    product.bias =
        bias_bytes(args) != 0 ? as_bf16(args.bias, scratch + bf16_bytes(args, a) + bf16_bytes(args, b), stream).data : args.bias.data;
  const bool kept = !args.before_activation.empty();
  const bool separate = args.activation == Activation::gelu || (kept && (args.activation != Activation::gelu_tanh || product.n % 8 != 0));
  if (!separate) {
    product.activation = args.activation;
    product.before_activation = args.before_activation.data;
    return gemm(product, stream);
  }
  if (kept && args.accumulate) {
    if (c.size() != 0)
      EXPCTR_CUDA_CHECK(
          cudaMemcpyAsync(args.before_activation.data, c.data, dtype_bytes(c.dtype, c.size()), cudaMemcpyDeviceToDevice, native(stream)));
  }
  const View& argument = kept ? args.before_activation : c;
  product.c = argument.data;
  gemm(product, stream);
  if (c.size() == 0) return;
  const auto kernel = c.dtype == DType::bf16 ? activate_kernel<Bf16Storage, std::uint16_t> : activate_kernel<PlainStorage<float>, float>;
  kernel<<<blocks_for(c.size(), 4 * block_threads), block_threads, 0, native(stream)>>>(args.activation, argument.data, c.size(), c.data);
  check_launch("matmul");
}

}  // namespace expctr::cuda
