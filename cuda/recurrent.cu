// Recurrent cells: the recurrence is one kernel over all time steps (cuda/recurrent_f32.cuh, cuda/recurrent_bf16.cuh); the gradients of
// weights and biases are products over the gradients of the gates of all steps, which the backward kernel leaves in scratch (zero where
// there is padding): no atomics, the same bits every time.
#include "base/kernels/recurrent.h"
#include "cuda/gemm.h"
#include "cuda/recurrent_bf16.cuh"

namespace expctr::cuda {

namespace {

struct Extents {
  std::int64_t batch, time, hidden, gates;
  std::int64_t columns() const { return gates * hidden; }
  std::int64_t steps() const { return batch * time; }
  bool empty() const { return batch * hidden == 0; }
};

template <class Args>
Extents extents_of(const char* kernel, const Args& args) {
  const View& s = args.states;
  if (s.rank != 3) throw ShapeError(std::string("cuda: ") + kernel + ": states must be [batch, time, hidden]");
  if (s.dtype != DType::f32 && s.dtype != DType::bf16)
    throw Error(std::string("cuda: ") + kernel + ": states are " + dtype_name(s.dtype) + ", the kernel takes f32 or bf16",
                "f64 exists on the CPU only; choose --device cpu or f32");
  const Extents e{s.shape[0], s.shape[1], s.shape[2], recurrent_gates(args.cell)};
  if (e.batch > (1 << 28) || e.time > (1 << 28) || e.hidden > 8192)
    throw ShapeError(std::string("cuda: ") + kernel + ": states of [" + std::to_string(e.batch) + ", " + std::to_string(e.time) + ", " +
                         std::to_string(e.hidden) + "]",
                     "at most 8192 units and 2^28 rows and steps");
  return e;
}

/// Scratch in parts of multiples of 256 bytes.
struct Parts {
  char* memory;
  std::size_t used = 0;
  template <class T>
  T* take(std::int64_t bytes) {
    T* part = reinterpret_cast<T*>(memory + used);
    used += static_cast<std::size_t>(bytes + 255) / 256 * 256;
    return part;
  }
};

/// The recurrent weights as the kernels want them.
std::int64_t forward_weight_bytes(const Extents& e, DType dtype) {
  const Bf16Extents b(static_cast<int>(e.hidden), 1);
  return dtype == DType::bf16 ? fragment_bytes(e.gates * b.groups * 2, b.k_blocks) : e.columns() * e.hidden * 4;
}
std::int64_t backward_weight_bytes(const Extents& e, DType dtype) {
  const Bf16Extents b(static_cast<int>(e.hidden), static_cast<int>(e.gates));
  return dtype == DType::bf16 ? fragment_bytes(b.groups * 2, e.gates * b.k_blocks) : 0;
}

struct BackwardParts {
  void *weight, *gates, *candidates, *before, *ones;
  BackwardParts(Parts& parts, const RecurrentBackward& args, const Extents& e) {
    const std::int64_t size = args.states.dtype == DType::bf16 ? 2 : 4;
    weight = parts.take<void>(backward_weight_bytes(e, args.states.dtype));
    gates = parts.take<void>(e.steps() * e.columns() * size);
    candidates = parts.take<void>(args.cell == RecurrentCell::lstm ? 0 : e.steps() * e.hidden * size);
    before = parts.take<void>(e.steps() * e.hidden * size);
    ones = parts.take<void>(e.steps() * size);
  }
};

__global__ void __launch_bounds__(block_threads)
    transpose_weight_kernel(const float* in, std::int64_t rows, std::int64_t columns, float* out) {
  __shared__ float tile[32][33];
  const std::int64_t row0 = static_cast<std::int64_t>(blockIdx.x) * 32, column0 = static_cast<std::int64_t>(blockIdx.y) * 32;
  const int x = static_cast<int>(threadIdx.x) % 32, y = static_cast<int>(threadIdx.x) / 32;
  for (int i = y; i < 32; i += block_threads / 32)
    if (row0 + i < rows && column0 + x < columns) tile[i][x] = in[(row0 + i) * columns + column0 + x];
  __syncthreads();
  for (int i = y; i < 32; i += block_threads / 32)
    if (column0 + i < columns && row0 + x < rows) out[(column0 + i) * rows + row0 + x] = tile[x][i];
}

template <class T>
__global__ void __launch_bounds__(block_threads) ones_kernel(std::int64_t n, T one, T* out) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (i < n) out[i] = one;
}

constexpr std::int64_t static_shared = 2048;  // at least what the kernels declare themselves

std::int64_t shared_limit() {
  int device = 0, bytes = 0;
  EXPCTR_CUDA_CHECK(cudaGetDevice(&device));
  EXPCTR_CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes - static_shared;
}

/// launch(integral constant Resident, shared bytes): the weights beside `bytes` of state, or not.
template <class Launch>
void with_residence(const char* kernel, std::int64_t bytes, std::int64_t weight_bytes, Launch launch) {
  const std::int64_t limit = shared_limit();
  if (bytes + weight_bytes <= limit) return launch(std::true_type{}, static_cast<std::size_t>(bytes + weight_bytes));
  if (bytes <= limit) return launch(std::false_type{}, static_cast<std::size_t>(bytes));
  throw ShapeError(std::string("cuda: ") + kernel + ": the state of a block needs " + std::to_string(bytes) +
                       " bytes of shared memory, there are " + std::to_string(limit),
                   "use fewer hidden units");
}

template <class Kernel, class... Args>
void start(const char* name, Kernel kernel, unsigned blocks, int threads, std::size_t shared, Stream stream, Args... args) {
  if (shared + static_shared > 48 * 1024)
    EXPCTR_CUDA_CHECK(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared + static_shared / 2)));
  kernel<<<blocks, threads, shared, native(stream)>>>(args...);
  check_launch(name);
}

template <class Body>
void with_cell(RecurrentCell cell, Body body) {
  switch (cell) {
    case RecurrentCell::gru:
      return body(std::integral_constant<RecurrentCell, RecurrentCell::gru>{});
    case RecurrentCell::augru:
      return body(std::integral_constant<RecurrentCell, RecurrentCell::augru>{});
    case RecurrentCell::lstm:
      return body(std::integral_constant<RecurrentCell, RecurrentCell::lstm>{});
  }
}

template <class T>
bool by_four(std::int64_t hidden, std::initializer_list<const View*> views) {
  bool quads = hidden % 4 == 0;
  for (const View* view : views) quads = quads && reinterpret_cast<std::uintptr_t>(view->data) % (4 * sizeof(T)) == 0;
  return quads;
}

template <class T>
RecurrentPointers<T> pointers_of(const RecurrentForward& args, const Extents& e) {
  RecurrentPointers<T> p{};
  p.batch = static_cast<int>(e.batch);
  p.time = static_cast<int>(e.time);
  p.hidden = static_cast<int>(e.hidden);
  p.quads = by_four<T>(
      e.hidden, {&args.projected, &args.initial, &args.initial_cell, &args.states, &args.last, &args.last_cell, &args.saved, &args.cells});
  p.projected = args.projected.as<const T>();
  p.attention = args.attention.as<const T>();
  p.initial = args.initial.as<const T>();
  p.initial_cell = args.initial_cell.as<const T>();
  p.lengths = args.lengths.as<const std::int32_t>();
  p.bias_input = args.bias_input.as<const float>();
  p.bias_hidden = args.bias_hidden.as<const float>();
  p.states = args.states.as<T>();
  p.last = args.last.as<T>();
  p.last_cell = args.last_cell.as<T>();
  p.saved = args.saved.as<T>();
  p.cells = args.cells.as<T>();
  return p;
}

template <class T>
RecurrentPointers<T> pointers_of(const RecurrentBackward& args, const Extents& e, const BackwardParts& parts) {
  RecurrentPointers<T> p{};
  p.batch = static_cast<int>(e.batch);
  p.time = static_cast<int>(e.time);
  p.hidden = static_cast<int>(e.hidden);
  p.quads = by_four<T>(e.hidden, {&args.initial, &args.initial_cell, &args.states, &args.saved, &args.cells, &args.dstates, &args.dlast,
                                  &args.dlast_cell, &args.dprojected, &args.dinitial, &args.dinitial_cell});
  p.attention = args.attention.as<const T>();
  p.initial = args.initial.as<const T>();
  p.initial_cell = args.initial_cell.as<const T>();
  p.lengths = args.lengths.as<const std::int32_t>();
  p.states = args.states.as<T>();
  p.saved = args.saved.as<T>();
  p.cells = args.cells.as<T>();
  p.dstates = args.dstates.as<const T>();
  p.dlast = args.dlast.as<const T>();
  p.dlast_cell = args.dlast_cell.as<const T>();
  p.dprojected = args.dprojected.as<T>();
  p.dattention = args.dattention.as<T>();
  p.dinitial = args.dinitial.as<T>();
  p.dinitial_cell = args.dinitial_cell.as<T>();
  p.gates = static_cast<T*>(parts.gates);
  p.candidates = static_cast<T*>(parts.candidates);
  p.before = static_cast<T*>(parts.before);
  return p;
}

template <bool Backward>
void pack(const View& weight, const Extents& e, void* out, Stream stream) {
  const Bf16Extents b(static_cast<int>(e.hidden), 1);
  const std::int64_t elements = e.gates * b.groups * 2 * b.k_blocks * 32;
  pack_fragments_kernel<Backward><<<blocks_for(elements, recurrent_threads), recurrent_threads, 0, native(stream)>>>(
      weight.as<const float>(), static_cast<int>(e.hidden), static_cast<int>(e.gates), b.groups, b.k_blocks, elements,
      static_cast<uint4*>(out));
  check_launch("pack_fragments");
}

void forward_f32(const RecurrentForward& args, const Extents& e, Stream stream) {
  RecurrentPointers<float> p = pointers_of<float>(args, e);
  const dim3 grid(static_cast<unsigned>(ceil_div(e.columns(), 32)), static_cast<unsigned>(ceil_div(e.hidden, 32)));
  transpose_weight_kernel<<<grid, block_threads, 0, native(stream)>>>(args.weight.as<const float>(), e.columns(), e.hidden,
                                                                      args.scratch.as<float>());
  check_launch("transpose_weight");
  p.weight = args.scratch.data;
  const int lanes = recurrent_lanes(e.hidden), threads = recurrent_block(lanes), rows = threads / lanes * rows_per_thread;
  with_cell(args.cell, [&](auto cell) {
    with_residence("recurrent", forward_shared_floats(args.cell, e.hidden, rows) * 4, e.columns() * e.hidden * 4,
                   [&](auto resident, std::size_t shared) {
                     start("recurrent", recurrent_forward_kernel<cell.value, resident.value>, blocks_for(e.batch, rows), threads, shared,
                           stream, p, lanes);
                   });
  });
}

void forward_bf16(const RecurrentForward& args, const Extents& e, Stream stream) {
  RecurrentPointers<std::uint16_t> p = pointers_of<std::uint16_t>(args, e);
  pack<false>(args.weight, e, args.scratch.data, stream);
  p.weight = args.scratch.data;
  const Bf16Extents b(static_cast<int>(e.hidden), 1);
  with_cell(args.cell, [&](auto cell) {
    with_residence("recurrent", bf16_forward_shared(args.cell, b, e.hidden), forward_weight_bytes(e, DType::bf16),
                   [&](auto resident, std::size_t shared) {
                     start("recurrent", recurrent_forward_bf16_kernel<cell.value, resident.value>, blocks_for(e.batch, recurrent_rows),
                           32 * b.warps(), shared, stream, p);
                   });
  });
}

void backward_f32(const RecurrentBackward& args, const Extents& e, const BackwardParts& parts, Stream stream) {
  RecurrentPointers<float> p = pointers_of<float>(args, e, parts);
  p.weight = args.weight.data;
  const int lanes = recurrent_lanes(e.hidden), threads = recurrent_block(lanes), rows = threads / lanes * rows_per_thread;
  with_cell(args.cell, [&](auto cell) {
    with_residence("recurrent_backward", backward_shared_floats(args.cell, e.hidden, rows) * 4, e.columns() * e.hidden * 4,
                   [&](auto resident, std::size_t shared) {
                     start("recurrent_backward", recurrent_backward_kernel<cell.value, resident.value>, blocks_for(e.batch, rows), threads,
                           shared, stream, p, lanes);
                   });
  });
}

void backward_bf16(const RecurrentBackward& args, const Extents& e, const BackwardParts& parts, Stream stream) {
  RecurrentPointers<std::uint16_t> p = pointers_of<std::uint16_t>(args, e, parts);
  pack<true>(args.weight, e, parts.weight, stream);
  p.weight = parts.weight;
  const Bf16Extents b(static_cast<int>(e.hidden), static_cast<int>(e.gates));
  with_cell(args.cell, [&](auto cell) {
    with_residence("recurrent_backward", bf16_backward_shared(args.cell, b), backward_weight_bytes(e, DType::bf16),
                   [&](auto resident, std::size_t shared) {
                     start("recurrent_backward", recurrent_backward_bf16_kernel<cell.value, resident.value>,
                           blocks_for(e.batch, recurrent_rows), 32 * b.warps(), shared, stream, p);
                   });
  });
}

/// dweight, dbias_input, dbias_hidden from the gradients of the gates of all steps.
void parameter_gradients(const RecurrentBackward& args, const Extents& e, const BackwardParts& parts, Stream stream) {
  const DType dtype = args.states.dtype;
  Gemm product;
  product.operands = dtype;
  product.k = e.steps();
  product.beta = 1;
  if (!args.dweight.empty()) {
    product.m = e.columns();
    product.n = e.hidden;
    product.transpose_a = true;
    product.a = parts.gates;
    product.b = parts.before;
    product.c = args.dweight.as<float>();
    gemm(product, stream);
  }
  if (args.dbias_input.empty() && args.dbias_hidden.empty()) return;
  if (dtype == DType::bf16)
    ones_kernel<std::uint16_t><<<blocks_for(e.steps(), block_threads), block_threads, 0, native(stream)>>>(
        e.steps(), 0x3F80, static_cast<std::uint16_t*>(parts.ones));
  else
    ones_kernel<float>
        <<<blocks_for(e.steps(), block_threads), block_threads, 0, native(stream)>>>(e.steps(), 1.0f, static_cast<float*>(parts.ones));
  check_launch("ones");
  const auto column_sums = [&](const void* from, std::int64_t stride, std::int64_t columns, float* to) {
    product.m = 1;
    product.n = columns;
    product.transpose_a = false;
    product.a = parts.ones;
    product.b = from;
    product.b_stride = stride;
    product.c = to;
    gemm(product, stream);
  };
  if (!args.dbias_hidden.empty()) column_sums(parts.gates, e.columns(), e.columns(), args.dbias_hidden.as<float>());
  if (args.dbias_input.empty()) return;
  if (args.cell == RecurrentCell::lstm) return column_sums(parts.gates, e.columns(), e.columns(), args.dbias_input.as<float>());
  column_sums(parts.gates, e.columns(), 2 * e.hidden, args.dbias_input.as<float>());
  column_sums(parts.candidates, e.hidden, e.hidden, args.dbias_input.as<float>() + 2 * e.hidden);
}

/// y (+)= x inside the lengths, zero elsewhere unless accumulating. Item: the unit of a copy, of `per_item` elements.
template <class T, int PerItem, bool Accumulate>
__global__ void __launch_bounds__(block_threads)
    mask_padding_kernel(std::int64_t items, std::int64_t items_per_row, std::int64_t items_per_step, const T* x,
                        const std::int32_t* lengths, T* y) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (i >= items) return;
  const std::int64_t row = i / items_per_row;
  const bool inside = i - row * items_per_row < lengths[row] * items_per_step;
  if (Accumulate && !inside) return;
  struct __align__(sizeof(T) * PerItem) Item {
    T part[PerItem];
  }
  value = {};
  if (inside) value = reinterpret_cast<const Item*>(x)[i];
  if (Accumulate) {
    const Item old = reinterpret_cast<const Item*>(y)[i];
#pragma unroll
    for (int k = 0; k < PerItem; ++k) put(&value.part[k], to_float(value.part[k]) + to_float(old.part[k]));
  }
  reinterpret_cast<Item*>(y)[i] = value;
}

template <class T>
void mask(const MaskPadding& args, Stream stream) {
  constexpr int wide = 16 / static_cast<int>(sizeof(T));
  const std::int64_t width = args.x.shape[2], n = args.x.size();
  const bool vector = width % wide == 0 && aligned16(args.x.data) && aligned16(args.y.data);
  const std::int64_t per_item = vector ? wide : 1, items = n / per_item;
  const auto kernel = vector ? (args.accumulate ? mask_padding_kernel<T, wide, true> : mask_padding_kernel<T, wide, false>)
                             : (args.accumulate ? mask_padding_kernel<T, 1, true> : mask_padding_kernel<T, 1, false>);
  kernel<<<blocks_for(items, block_threads), block_threads, 0, native(stream)>>>(items, args.x.shape[1] * width / per_item,
                                                                                 width / per_item, args.x.as<const T>(),
                                                                                 args.lengths.as<const std::int32_t>(), args.y.as<T>());
  check_launch("mask_padding");
}

}  // namespace

template <>
std::size_t scratch_bytes(const RecurrentForward& args) {
  return static_cast<std::size_t>(forward_weight_bytes(extents_of("recurrent", args), args.states.dtype));
}

template <>
void run(const RecurrentForward& args, Stream stream) {
  const char* kernel = "recurrent";
  const Extents e = extents_of(kernel, args);
  require(kernel, args.states.dtype,
          {&args.projected, &args.attention, &args.initial, &args.initial_cell, &args.last, &args.last_cell, &args.saved, &args.cells});
  require_f32(kernel, {&args.weight, &args.bias_input, &args.bias_hidden});
  require(kernel, DType::i32, {&args.lengths});
  require_scratch(kernel, args.scratch, scratch_bytes(args));
  if (e.empty()) return;
  if (args.states.dtype == DType::bf16)
    forward_bf16(args, e, stream);
  else
    forward_f32(args, e, stream);
}

template <>
std::size_t scratch_bytes(const RecurrentBackward& args) {
  Parts parts{nullptr};
  BackwardParts(parts, args, extents_of("recurrent_backward", args));
  return parts.used;
}

template <>
void run(const RecurrentBackward& args, Stream stream) {
  const char* kernel = "recurrent_backward";
  const Extents e = extents_of(kernel, args);
  require(kernel, args.states.dtype,
          {&args.attention, &args.initial, &args.initial_cell, &args.saved, &args.cells, &args.dstates, &args.dlast, &args.dlast_cell,
           &args.dprojected, &args.dattention, &args.dinitial, &args.dinitial_cell});
  require_f32(kernel, {&args.weight, &args.dweight, &args.dbias_input, &args.dbias_hidden});
  require(kernel, DType::i32, {&args.lengths});
  require_scratch(kernel, args.scratch, scratch_bytes(args));
  if (e.empty()) return;
  Parts parts{args.scratch.as<char>()};
  const BackwardParts pieces(parts, args, e);
  if (args.states.dtype == DType::bf16)
    backward_bf16(args, e, pieces, stream);
  else
    backward_f32(args, e, pieces, stream);
  if (e.steps() > 0) parameter_gradients(args, e, pieces, stream);
}

template <>
void run(const MaskPadding& args, Stream stream) {
  require("mask_padding", args.x.dtype, {&args.y});
  require("mask_padding", DType::i32, {&args.lengths});
  if (args.x.rank != 3) throw ShapeError("cuda: mask_padding takes [batch, time, width]");
  if (args.x.size() == 0) return;
  if (args.x.dtype == DType::bf16) return mask<std::uint16_t>(args, stream);
  require_f32("mask_padding", {&args.x});
  mask<float>(args, stream);
}

}  // namespace expctr::cuda
