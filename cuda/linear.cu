// Products with frozen weights. Mode bf16: x as bf16 rows (used where it lies when it is bf16); a block-quantised weight is multiplied from
// its packed planes (cuda/linear_tile.cu, cuda/linear_decode.cu), a plain one, kept as bf16, by cuBLASLt: 2 rows inputs outputs FLOPs; with
// few rows bound by reading the weight (.56 bytes an element for q4_0, 2 for bf16), with many by tensor cores. A bf16 y wants cuBLASLt's
// bias in bf16: it is rounded to y's own precision. Mode f32: the weight stays packed in memory; slices of at most 16 MiB are unpacked
// exactly into scratch and multiplied as f32 by cuBLASLt, 8 bytes of traffic an element more; bound by f32 arithmetic from about 20 rows
// on.
#include <algorithm>

#include "base/kernels/elementwise.h"
#include "base/kernels/linear.h"
#include "cuda/gemm.h"
#include "cuda/launch.cuh"
#include "cuda/linear_format.cuh"
#include "cuda/linear_weight.h"

namespace expctr::cuda {

namespace {

constexpr std::int64_t slice_bytes = std::int64_t{16} << 20;

std::int64_t rounded_up(std::int64_t bytes) { return ceil_div(bytes, 256) * 256; }

View f32_view(std::int64_t rows, std::int64_t width, void* data) {
  View view;
  view.data = data;
  view.rank = 2;
  view.shape[0] = rows;
  view.shape[1] = width;
  return view;
}

void check_weight(const char* kernel, const PackedWeight& weight, const View& x, const View& y) {
  if (weight.mode == ComputeMode::int8)
    throw Error(std::string("cuda: ") + kernel + ": int8 products exist on the CPU only", "choose llm.compute: bf16");
  for (const View* view : {&x, &y})
    if (view->dtype != DType::f32 && view->dtype != DType::bf16) require_f32(kernel, {view});
}

/// Scratch of a product in mode f32: x and y as f32 where they are bf16, a slice of the weight where it is not f32.
struct F32Scratch {
  std::int64_t x_bytes = 0, y_bytes = 0, slice = 0, weight_bytes = 0;
  F32Scratch(const PackedWeight& weight, const View& x, const View& y) {
    if (x.dtype != DType::f32) x_bytes = rounded_up(x.size() * 4);
    if (y.dtype != DType::f32) y_bytes = rounded_up(y.size() * 4);
    slice = weight.outputs;
    if (stored_as_f32(weight)) return;
    const std::int64_t most = std::max<std::int64_t>(16, slice_bytes / (4 * std::max<std::int64_t>(weight.inputs, 1)) / 16 * 16);
    slice = std::min(most, slice);
    weight_bytes = rounded_up(slice * weight.inputs * 4);
  }
  std::size_t bytes() const { return static_cast<std::size_t>(x_bytes + y_bytes + weight_bytes); }
};

/// y = x w^T + bias, or (transposed) y += x w; slice by slice of the weight's outputs.
void multiply_f32(const PackedWeight& weight, bool transposed, const View& x, const View& bias, const View& y, char* scratch,
                  Stream stream) {
  const F32Scratch layout(weight, x, y);
  View xf = x, yf = y;
  if (layout.x_bytes != 0) {
    xf = f32_view(x.rows(), x.width(), scratch);
    run(Convert{x, xf}, stream);
  }
  if (layout.y_bytes != 0) {
    yf = f32_view(y.rows(), y.width(), scratch + layout.x_bytes);
    if (transposed) run(Convert{y, yf}, stream);
  }
  float* values = reinterpret_cast<float*>(scratch + layout.x_bytes + layout.y_bytes);
  for (std::int64_t first = 0; first < weight.outputs; first += layout.slice) {
    const std::int64_t count = std::min(layout.slice, weight.outputs - first);
    Gemm product;
    product.m = x.rows();
    product.b = weight.data;
    if (layout.weight_bytes != 0) {
      unpack_rows(weight, first, count, values, stream);
      product.b = values;
    }
    if (transposed) {
      product.n = weight.inputs;
      product.k = count;
      product.a = xf.as<float>() + first;
      product.a_stride = weight.outputs;
      product.c = yf.data;
      product.beta = 1;
    } else {
      product.n = count;
      product.k = weight.inputs;
      product.transpose_b = true;
      product.a = xf.data;
      product.c = yf.as<float>() + first;
      product.c_stride = weight.outputs;
      product.bias = bias.empty() ? nullptr : bias.as<float>() + first;
    }
    gemm(product, stream);
  }
  if (layout.y_bytes != 0) run(Convert{yf, y}, stream);
}

/// Scratch of a product in mode bf16: x as bf16 rows, then the bias as cuBLASLt wants it.
std::size_t bf16_scratch(const PackedWeight& weight, const View& x, const View& bias, const View& y) {
  const bool rounded_bias = !is_quantised(weight.dtype) && y.dtype == DType::bf16 && !bias.empty();
  return bf16_rows_size(x).bytes + static_cast<std::size_t>(rounded_bias ? rounded_up(weight.outputs * 2) : 0);
}

void multiply_bf16(const PackedWeight& weight, bool transposed, const View& x, const View& bias, const View& y, char* scratch,
                   Stream stream) {
  const Bf16Rows rows = bf16_rows(x, scratch, stream);
  if (is_quantised(weight.dtype)) {
    WeightProduct product;
    product.weight = weight;
    product.count = weight.outputs;
    product.transposed = transposed;
    product.a = rows;
    product.rows = x.rows();
    product.y = y.data;
    product.y_dtype = y.dtype;
    product.y_stride = y.width();
    product.bias = bias.as<float>();
    product.accumulate = transposed;
    return multiply(product, stream);
  }
  Gemm product;
  product.m = x.rows();
  product.operands = DType::bf16;
  product.result = y.dtype;
  product.n = y.width();
  product.k = x.width();
  product.transpose_b = !transposed;
  product.a = rows.data;
  product.a_stride = rows.stride;
  product.b = weight.data;
  product.b_stride = plain_stride(weight);
  product.c = y.data;
  product.beta = transposed ? 1.0f : 0.0f;
  product.bias = bias.data;
  if (!bias.empty() && y.dtype == DType::bf16) {
    View narrow = bias;
    narrow.dtype = DType::bf16;
    narrow.data = scratch + rows.bytes;
    run(Convert{bias, narrow}, stream);
    product.bias = narrow.data;
  }
  gemm(product, stream);
}

}  // namespace

template <>
std::size_t scratch_bytes(const LinearFrozen& args) {
  if (args.weight.mode == ComputeMode::bf16) return bf16_scratch(args.weight, args.x, args.bias, args.y);
  return F32Scratch(args.weight, args.x, args.y).bytes();
}

template <>
void run(const LinearFrozen& args, Stream stream) {
  check_weight("linear_frozen", args.weight, args.x, args.y);
  require_f32("linear_frozen", {&args.bias});
  require_scratch("linear_frozen", args.scratch, scratch_bytes(args));
  const auto multiply = args.weight.mode == ComputeMode::bf16 ? multiply_bf16 : multiply_f32;
  multiply(args.weight, false, args.x, args.bias, args.y, args.scratch.as<char>(), stream);
}

template <>
std::size_t scratch_bytes(const LinearFrozenBackward& args) {
  if (args.weight.mode == ComputeMode::bf16) return bf16_scratch(args.weight, args.dy, View{}, args.dx);
  return F32Scratch(args.weight, args.dy, args.dx).bytes();
}

template <>
void run(const LinearFrozenBackward& args, Stream stream) {
  check_weight("linear_frozen_backward", args.weight, args.dy, args.dx);
  require_scratch("linear_frozen_backward", args.scratch, scratch_bytes(args));
  const auto multiply = args.weight.mode == ComputeMode::bf16 ? multiply_bf16 : multiply_f32;
  multiply(args.weight, true, args.dy, View{}, args.dx, args.scratch.as<char>(), stream);
}

}  // namespace expctr::cuda
