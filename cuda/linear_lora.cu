// Frozen products with low-rank adapters. All A adapters of rank r work at once: low_all = dropout(x) a^T [rows, A r] with a as the matrix
// [A r, inputs], one kernel keeps each row's own columns (the others become 0), and y gets low_all b^T with b as [outputs, A r].
//   mode bf16, block-quantised weight, more than 16 rows: the thin product rides in the tiled kernel of x w^T as further steps of the same
//     reduction: y is written once, and 2 A r (rows tiles of columns + outputs tiles of rows) bytes are read beside that product's.
//   otherwise: cuBLASLt adds it to y (beta = 1): y is read and written once more.
// Backward: du = scale dy b, masked in the same way; dx = dy w + du a like forward; da = du^T dropout(x), db = dy^T low: one product each.
// FLOPs: the frozen product's and 2 rows A r (inputs + outputs) forward, three times that backward (twice without dropout's recomputed
// input). Bytes besides the frozen product's: x and dy once more each, for the thin products; 12 to 16 bytes an element of low. Bound by
// reading x and dy. The sums over rows are the library's, without atomics.
#include "base/kernels/elementwise.h"
#include "base/kernels/linear_lora.h"
#include "base/philox.h"
#include "cuda/gemm.h"
#include "cuda/linear_format.cuh"
#include "cuda/linear_weight.h"
#include "cuda/storage.cuh"

namespace expctr::cuda {

namespace {

struct MaskKey {
  float probability, scale;
  RandomKey key;
  std::uint32_t step, channel;
  explicit MaskKey(const LoraDropout& d)
      : probability(d.probability), scale(1.0f / (1.0f - d.probability)), key{d.key_low, d.key_high}, step(d.step), channel(d.channel) {}
};

__device__ __forceinline__ void store_as(float* to, std::int64_t i, float value) { to[i] = value; }
__device__ __forceinline__ void store_as(std::uint16_t* to, std::int64_t i, float value) { to[i] = bf16_of_float(value); }
__device__ __forceinline__ float load_as(const float* from, std::int64_t i) { return from[i]; }
__device__ __forceinline__ float load_as(const std::uint16_t* from, std::int64_t i) { return float_of_bf16(from[i]); }

/// y (or y +=) dropout(x), rows of x_stride and y_stride elements, zero beyond width. A thread four columns: one call of philox.
template <class From, class To>
__global__ void __launch_bounds__(block_threads)
    drop_rows_kernel(MaskKey mask, bool accumulate, std::int64_t rows, std::int64_t width, const From* x, std::int64_t x_stride,
                     const std::int32_t* sample, To* y, std::int64_t y_stride) {
  const std::int64_t groups = ceil_div(y_stride, 4), i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (i >= rows * groups) return;
  const std::int64_t row = i / groups, group = i - row * groups;
  const RandomBits bits =
      philox(mask.key, {mask.step, static_cast<std::uint32_t>(sample[row]), static_cast<std::uint32_t>(group), mask.channel});
#pragma unroll
  for (int lane = 0; lane < 4; ++lane) {
    const std::int64_t column = group * 4 + lane, at = row * y_stride + column;
    if (column >= y_stride) return;
    float value =
        column < width && uniform_float(bits.word[lane]) >= mask.probability ? load_as(x, row * x_stride + column) * mask.scale : 0.0f;
    if (accumulate) value += load_as(y, at);
    store_as(y, at, value);
  }
}

/// masked [rows, stride] = scale x own(low) [own adapter's columns, other columns 0]; `low` has all columns (low_stride = adapters rank) or
/// the own ones (low_stride = rank). own, if given, receives the own columns [rows, rank] without the scale.
template <class To>
__global__ void __launch_bounds__(block_threads)
    own_columns_kernel(std::int64_t elements, std::int64_t stride, std::int64_t rank, std::int64_t adapters, float scale, const float* low,
                       std::int64_t low_stride, const std::int32_t* ids, To* masked, float* own) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (i >= elements) return;
  const std::int64_t row = i / stride, column = i % stride, adapter = column / rank;
  const std::int64_t id = ids == nullptr ? 0 : ids[row];
  const bool mine = adapter == id && adapter < adapters;
  const float value = mine ? low[row * low_stride + (low_stride == rank ? column % rank : column)] : 0.0f;
  store_as(masked, i, scale * value);
  if (own == nullptr) return;
  if (mine) own[row * rank + column % rank] = value;
  if ((id < 0 || id >= adapters) && column < rank) own[row * rank + column] = 0.0f;
}

/// to [outputs, stride] = b [adapters, outputs, rank] side by side, zero beyond adapters rank.
template <class To>
__global__ void __launch_bounds__(block_threads) side_by_side_kernel(std::int64_t elements, std::int64_t stride, std::int64_t outputs,
                                                                     std::int64_t rank, std::int64_t adapters, const float* b, To* to) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (i >= elements) return;
  const std::int64_t output = i / stride, column = i % stride, adapter = column / rank;
  store_as(to, i, adapter < adapters ? b[(adapter * outputs + output) * rank + column % rank] : 0.0f);
}

/// db [adapters, outputs, rank] += gradient [outputs, adapters rank].
__global__ void __launch_bounds__(block_threads) add_stacked_kernel(std::int64_t elements, std::int64_t outputs, std::int64_t rank,
                                                                    std::int64_t adapters, const float* gradient, float* db) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (i >= elements) return;
  const std::int64_t adapter = i / (outputs * rank), output = i / rank % outputs;
  db[i] += gradient[(output * adapters + adapter) * rank + i % rank];
}

View matrix(std::int64_t rows, std::int64_t width, DType dtype, void* data) {
  View view;
  view.data = data;
  view.dtype = dtype;
  view.rank = 2;
  view.shape[0] = rows;
  view.shape[1] = width;
  return view;
}

/// A matrix in the product's element type, f32 or bf16, with its row stride.
struct Operand {
  const void* data = nullptr;
  std::int64_t stride = 0;
};

/// Hands out scratch, or only counts it.
class Scratch {
 public:
  explicit Scratch(char* base) : base_(base) {}
  template <class T = char>
  T* take(std::int64_t bytes) {
    char* here = base_ == nullptr ? nullptr : base_ + used_;
    used_ += ceil_div(bytes, 256) * 256;
    return reinterpret_cast<T*>(here);
  }
  std::int64_t used() const { return used_; }

 private:
  char* base_;
  std::int64_t used_ = 0;
};

/// Both passes in one walk, so that counting scratch and using it cannot part ways: nothing is queued while counting.
template <class Args>
class Lora {
 public:
  Lora(const Args& args, char* base, Stream stream)
      : args_(args),
        scratch_(base),
        stream_(stream),
        queue_(base != nullptr),
        bf16_(args.weight.mode == ComputeMode::bf16),
        rows_(args.x.rows()),
        inputs_(args.weight.inputs),
        outputs_(args.weight.outputs),
        adapters_(args.a.shape[0]),
        rank_(args.a.shape[1]),
        all_(adapters_ * rank_),
        stride_(ceil_div(all_, 8) * 8) {}

  std::int64_t used() const { return scratch_.used(); }

  void forward() {
    const Operand x = operand(args_.x), input = dropped(x);
    float* low_all = scratch_.template take<float>(rows_ * all_ * 4);
    const Operand a = adapters_a(), b = adapters_b();
    product(false, true, rows_, all_, inputs_, input, a, low_all, 0, DType::f32, 1.0f, 0.0f);
    const Operand masked = own_columns(low_all, all_, args_.low.template as<float>());
    add_thin(false, x, args_.x, args_.bias, args_.y, masked, b, outputs_);
  }

  void backward() {
    const Operand dy = operand(args_.dy), b = adapters_b();
    float* du_all = scratch_.template take<float>(rows_ * all_ * 4);
    product(false, false, rows_, all_, outputs_, dy, b, du_all, 0, DType::f32, 1.0f, 0.0f);
    const Operand du = own_columns(du_all, all_, nullptr);
    if (!args_.db.empty()) {
      const Operand low = own_columns(args_.low.template as<float>(), rank_, nullptr);
      if (adapters_ == 1) {
        product(true, false, outputs_, rank_, rows_, dy, low, args_.db.data, 0, DType::f32, 1.0f, 1.0f);
      } else {
        float* gradient = scratch_.template take<float>(outputs_ * all_ * 4);
        product(true, false, outputs_, all_, rows_, dy, low, gradient, 0, DType::f32, 1.0f, 0.0f);
        if (queue_ && outputs_ * all_ != 0) {
          add_stacked_kernel<<<blocks_for(outputs_ * all_, block_threads), block_threads, 0, native(stream_)>>>(
              outputs_ * all_, outputs_, rank_, adapters_, gradient, args_.db.template as<float>());
          check_launch("linear_lora_backward");
        }
      }
    }
    if (!args_.da.empty()) {
      const Operand input = dropped(operand(args_.x));
      product(true, false, all_, inputs_, rows_, du, input, args_.da.data, 0, DType::f32, 1.0f, 1.0f);
    }
    if (args_.dx.empty()) return;
    const Operand a = adapters_a();
    if (args_.dropout.probability == 0) return add_thin(true, dy, args_.dy, View{}, args_.dx, du, a, inputs_);
    frozen(true, args_.dy, View{}, args_.dx);
    float* back = scratch_.template take<float>(rows_ * inputs_ * 4);
    product(false, false, rows_, inputs_, all_, du, a, back, 0, DType::f32, 1.0f, 0.0f);
    if (args_.dx.dtype == DType::bf16)
      drop(back, inputs_, args_.dx.template as<std::uint16_t>(), inputs_, true);
    else
      drop(back, inputs_, args_.dx.template as<float>(), inputs_, true);
  }

 private:
  /// x in the product's type.
  Operand operand(const View& x) {
    if (bf16_) {
      Bf16Rows rows = bf16_rows_size(x);
      void* here = scratch_.take(static_cast<std::int64_t>(rows.bytes));
      if (queue_) rows = bf16_rows(x, here, stream_);
      return {rows.data, rows.stride};
    }
    if (x.dtype == DType::f32) return {x.data, x.width()};
    float* wide = scratch_.template take<float>(x.size() * 4);
    if (queue_) run(Convert{x, matrix(x.rows(), x.width(), DType::f32, wide)}, stream_);
    return {wide, x.width()};
  }

  template <class From, class To>
  void drop(const From* x, std::int64_t x_stride, To* y, std::int64_t y_stride, bool accumulate) {
    const std::int64_t threads = rows_ * ceil_div(y_stride, 4);
    if (!queue_ || threads == 0) return;
    drop_rows_kernel<From, To><<<blocks_for(threads, block_threads), block_threads, 0, native(stream_)>>>(
        MaskKey(args_.dropout), accumulate, rows_, inputs_, x, x_stride, args_.dropout.sample.template as<std::int32_t>(), y, y_stride);
    check_launch("linear_lora");
  }

  /// Dropout of x's own values, in the product's type.
  Operand dropped(const Operand& x) {
    if (args_.dropout.probability == 0) return x;
    void* here = scratch_.take(rows_ * x.stride * (bf16_ ? 2 : 4));
    const auto from = [&](const auto* values) {
      if (bf16_)
        drop(values, inputs_, static_cast<std::uint16_t*>(here), x.stride, false);
      else
        drop(values, inputs_, static_cast<float*>(here), x.stride, false);
    };
    args_.x.dtype == DType::bf16 ? from(args_.x.template as<std::uint16_t>()) : from(args_.x.template as<float>());
    return {here, x.stride};
  }

  /// a as [adapters rank, inputs].
  Operand adapters_a() { return operand(matrix(all_, inputs_, DType::f32, args_.a.data)); }

  /// b as [outputs, adapters rank].
  Operand adapters_b() {
    if (!bf16_ && adapters_ == 1) return {args_.b.data, rank_};
    const std::int64_t elements = outputs_ * stride_;
    void* here = scratch_.take(elements * (bf16_ ? 2 : 4));
    if (queue_ && elements != 0) {
      const unsigned blocks = blocks_for(elements, block_threads);
      if (bf16_)
        side_by_side_kernel<<<blocks, block_threads, 0, native(stream_)>>>(elements, stride_, outputs_, rank_, adapters_,
                                                                           args_.b.template as<float>(), static_cast<std::uint16_t*>(here));
      else
        side_by_side_kernel<<<blocks, block_threads, 0, native(stream_)>>>(elements, stride_, outputs_, rank_, adapters_,
                                                                           args_.b.template as<float>(), static_cast<float*>(here));
      check_launch("linear_lora");
    }
    return {here, stride_};
  }

  /// scale x each row's own columns of `low`, the others 0.
  Operand own_columns(const float* low, std::int64_t low_stride, float* own) {
    const std::int64_t elements = rows_ * stride_;
    void* here = scratch_.take(elements * (bf16_ ? 2 : 4));
    if (queue_ && elements != 0) {
      const unsigned blocks = blocks_for(elements, block_threads);
      const float scale = static_cast<float>(args_.scale);
      const std::int32_t* ids = args_.ids.template as<std::int32_t>();
      if (bf16_)
        own_columns_kernel<<<blocks, block_threads, 0, native(stream_)>>>(elements, stride_, rank_, adapters_, scale, low, low_stride, ids,
                                                                          static_cast<std::uint16_t*>(here), own);
      else
        own_columns_kernel<<<blocks, block_threads, 0, native(stream_)>>>(elements, stride_, rank_, adapters_, scale, low, low_stride, ids,
                                                                          static_cast<float*>(here), own);
      check_launch("linear_lora");
    }
    return {here, stride_};
  }

  void product(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, const Operand& a, const Operand& b,
               void* c, std::int64_t c_stride, DType result, float alpha, float beta) {
    if (!queue_) return;
    Gemm gemm_args;
    gemm_args.m = m;
    gemm_args.n = n;
    gemm_args.k = k;
    gemm_args.transpose_a = transpose_a;
    gemm_args.transpose_b = transpose_b;
    gemm_args.operands = bf16_ ? DType::bf16 : DType::f32;
    gemm_args.result = result;
    gemm_args.a = a.data;
    gemm_args.a_stride = a.stride;
    gemm_args.b = b.data;
    gemm_args.b_stride = b.stride;
    gemm_args.c = c;
    gemm_args.c_stride = c_stride;
    gemm_args.alpha = alpha;
    gemm_args.beta = beta;
    gemm(gemm_args, stream_);
  }

  /// The product with the weight alone.
  void frozen(bool transposed, const View& x, const View& bias, const View& y) {
    const auto launch = [&](auto frozen_args) {
      const std::size_t bytes = scratch_bytes(frozen_args);
      frozen_args.scratch = matrix(1, static_cast<std::int64_t>(bytes), DType::u8, scratch_.take(static_cast<std::int64_t>(bytes)));
      if (queue_) run(frozen_args, stream_);
    };
    transposed ? launch(LinearFrozenBackward{args_.weight, x, y, {}}) : launch(LinearFrozen{args_.weight, x, bias, y, {}});
  }

  /// y = x w^T + bias + low v^T, or (transposed) y += x w + low v.
  void add_thin(bool transposed, const Operand& x, const View& x_view, const View& bias, const View& y, const Operand& low,
                const Operand& v, std::int64_t columns) {
    if (bf16_ && is_quantised(args_.weight.dtype) && rows_ > 16) {
      if (!queue_) return;
      WeightProduct fused;
      fused.weight = args_.weight;
      fused.count = outputs_;
      fused.transposed = transposed;
      fused.a = {static_cast<const std::uint16_t*>(x.data), x.stride, 0};
      fused.rows = rows_;
      fused.y = y.data;
      fused.y_dtype = y.dtype;
      fused.y_stride = y.width();
      fused.bias = bias.template as<float>();
      fused.accumulate = transposed;
      fused.low = {static_cast<const std::uint16_t*>(low.data), low.stride, 0};
      fused.low_depth = all_;
      fused.v = static_cast<const std::uint16_t*>(v.data);
      fused.v_stride = v.stride;
      return multiply(fused, stream_);
    }
    // f32 products have f32 results: a bf16 y of mode f32 is made in scratch.
    View wide = y;
    if (!bf16_ && y.dtype == DType::bf16) {
      wide = matrix(y.rows(), y.width(), DType::f32, scratch_.take(y.size() * 4));
      if (queue_ && transposed) run(Convert{y, wide}, stream_);
    }
    frozen(transposed, x_view, bias, wide);
    product(false, !transposed, rows_, columns, all_, low, v, wide.data, 0, wide.dtype, 1.0f, 1.0f);
    if (queue_ && wide.data != y.data) run(Convert{wide, y}, stream_);
  }

  const Args& args_;
  Scratch scratch_;
  Stream stream_;
  bool queue_, bf16_;
  std::int64_t rows_, inputs_, outputs_, adapters_, rank_, all_, stride_;
};

template <class Args>
void check(const char* kernel, const Args& args, std::initializer_list<const View*> activations) {
  if (args.weight.mode == ComputeMode::int8)
    throw Error(std::string("cuda: ") + kernel + ": int8 products exist on the CPU only", "choose llm.compute: bf16");
  for (const View* view : activations)
    if (view->dtype != DType::bf16) require_f32(kernel, {view});
  require_f32(kernel, {&args.a, &args.b, &args.low});
  require(kernel, DType::i32, {&args.ids, &args.dropout.sample});
  if (args.a.rank != 3 || args.b.rank != 3)
    throw ShapeError(std::string("cuda: ") + kernel + ": a and b have rank 3", "stack the adapters");
  require_scratch(kernel, args.scratch, scratch_bytes(args));
}

/// Scratch is never null while queueing, even when none is needed.
char* base_of(const View& scratch) {
  static char none[1];
  return scratch.data == nullptr ? none : scratch.as<char>();
}

}  // namespace

template <>
std::size_t scratch_bytes(const LinearLoraForward& args) {
  Lora<LinearLoraForward> counter(args, nullptr, {});
  counter.forward();
  return static_cast<std::size_t>(counter.used());
}

template <>
void run(const LinearLoraForward& args, Stream stream) {
  check("linear_lora", args, {&args.x, &args.y});
  require_f32("linear_lora", {&args.bias});
  if (args.x.rows() == 0) return;
  Lora<LinearLoraForward>(args, base_of(args.scratch), stream).forward();
}

template <>
std::size_t scratch_bytes(const LinearLoraBackward& args) {
  Lora<LinearLoraBackward> counter(args, nullptr, {});
  counter.backward();
  return static_cast<std::size_t>(counter.used());
}

template <>
void run(const LinearLoraBackward& args, Stream stream) {
  check("linear_lora_backward", args, {&args.x, &args.dy, &args.dx});
  require_f32("linear_lora_backward", {&args.da, &args.db});
  if (args.x.rows() == 0) return;
  Lora<LinearLoraBackward>(args, base_of(args.scratch), stream).backward();
}

}  // namespace expctr::cuda
