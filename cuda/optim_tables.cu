// Adam over whole tables and on single rows, and the norm of regularised gradients; all tensors of a step in one launch.
// Whole tables: a block takes 4,096 elements; the named rows among them are found by two searches and marked in shared memory, so a table
// moves 24 bytes an element (parameter and moments, read and written) and 4 more where there is a gradient; no dense gradient is made. The
// sum of squares of the updated parameters is taken on the way, one f64 a block. Single rows: 28 bytes an element of the named rows. Norm:
// 4 bytes an element of the gradients, 8 with a regulariser. About 20 FLOPs an element; bound by memory. No atomics: partial sums are added
// in a fixed order.
#include <cmath>

#include "base/kernels/embedding_rows.h"
#include "cuda/tensor_table.cuh"

namespace expctr::cuda {

namespace {

struct AdamCoefficients {
  DeviceScale scale;
  float keep;                        ///< 1 - learning rate x decay
  float beta1, rest1, beta2, rest2;  ///< rest = 1 - beta, rounded once
  float step_size, deviation_scale, epsilon;

  template <class Args>
  AdamCoefficients(const char* kernel, const Args& args, double weight_decay)
      : scale(kernel, args.scale),
        keep(static_cast<float>(1.0 - args.learning_rate * weight_decay)),
        beta1(static_cast<float>(args.beta1)),
        rest1(static_cast<float>(1.0 - args.beta1)),
        beta2(static_cast<float>(args.beta2)),
        rest2(static_cast<float>(1.0 - args.beta2)),
        step_size(static_cast<float>(args.learning_rate / (1.0 - std::pow(args.beta1, static_cast<double>(args.step))))),
        deviation_scale(static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(args.beta2, static_cast<double>(args.step))))),
        epsilon(static_cast<float>(args.epsilon)) {
    if (args.step < 1)
      throw Error(std::string("cuda: ") + kernel + ": step " + std::to_string(args.step) + " is below 1", "count steps from 1");
  }

  __device__ __forceinline__ void apply(float factor, float l2, float gradient, float& p, float& m, float& v) const {
    const float g = factor * (gradient + l2 * p);
    m = beta1 * m + rest1 * g;
    v = beta2 * v + rest2 * g * g;
    p = keep * p - step_size * m / (sqrtf(v) * deviation_scale + epsilon);
  }
};

struct TableEntry {
  float *parameter, *first, *second;
  const float* gradient;
  const std::int32_t* ids;  ///< null: the gradient is dense
  std::int64_t id_count;
  std::int32_t width;
  float l2;
};
using Table = TensorTable<TableEntry, 128>;

bool by_rows(const RegularisedTensor& tensor) { return !tensor.ids.empty() || tensor.gradient.size() != tensor.parameter.size(); }

TableEntry table_entry(const char* kernel, const RegularisedTensor& tensor, const TableMoments* moments) {
  require_f32(kernel, {&tensor.parameter, &tensor.gradient});
  require(kernel, DType::i32, {&tensor.ids});
  TableEntry entry{tensor.parameter.as<float>(),
                   nullptr,
                   nullptr,
                   tensor.gradient.as<float>(),
                   tensor.ids.as<std::int32_t>(),
                   0,
                   static_cast<std::int32_t>(tensor.parameter.width()),
                   static_cast<float>(tensor.l2)};
  if (moments != nullptr) {
    require_f32(kernel, {&moments->first, &moments->second});
    if (moments->first.size() != tensor.parameter.size() || moments->second.size() != tensor.parameter.size())
      throw Error(std::string("cuda: ") + kernel + ": moments of another size than their parameter");
    entry.first = moments->first.as<float>();
    entry.second = moments->second.as<float>();
  }
  if (tensor.gradient.rank > 0 && by_rows(tensor)) {
    entry.id_count = tensor.ids.empty() ? 0 : tensor.ids.size();
    if (tensor.parameter.rank != 2 || tensor.gradient.width() != tensor.parameter.width() || tensor.gradient.rows() != entry.id_count)
      throw Error(std::string("cuda: ") + kernel + ": a gradient by rows of " + std::to_string(tensor.gradient.rows()) + " rows for " +
                  std::to_string(entry.id_count) + " ids");
    if (entry.id_count == 0) entry.gradient = nullptr;
  }
  return entry;
}

__device__ __forceinline__ std::int64_t first_at_least(const std::int32_t* ids, std::int64_t n, std::int64_t row) {
  std::int64_t low = 0, high = n;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (ids[middle] < row)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

/// Which row of the gradient belongs to each table row of a block's piece; -1: none.
struct NamedRows {
  std::int64_t first_row;
  std::int32_t start;  ///< column of the piece's first element
  std::int32_t width;
  const std::int32_t* slots;
  const float* gradient;

  /// Gradient of elements begin + i .. + n - 1 of the piece.
  __device__ __forceinline__ float4 packet(std::int32_t i, int n) const {
    const std::int32_t at = start + i, row = at / width, column = at - row * width;
    if (column + 4 <= width && n == 4) {
      const std::int32_t slot = slots[row];
      if (slot < 0) return make_float4(0, 0, 0, 0);
      return load_packet(gradient + static_cast<std::int64_t>(slot) * width + column, 4);
    }
    float4 result = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j >= n) break;
      const std::int32_t r = (at + j) / width, slot = slots[r];
      if (slot >= 0) lane4(result, j) = gradient[static_cast<std::int64_t>(slot) * width + (at + j - r * width)];
    }
    return result;
  }
};

/// Update: a step of Adam; else the parameters are only read. partials[block] = sum of squares of the piece's parameters, when wanted.
template <bool Update>
__global__ void __launch_bounds__(block_threads)
    table_kernel(const __grid_constant__ Table table, const __grid_constant__ AdamCoefficients adam, double* partials) {
  __shared__ std::int32_t slots[optim_piece + 1];  // rows of a piece: at most its elements, and a part of one more
  __shared__ std::int64_t range[2];
  const int tensor = table.tensor_of_block();
  const TableEntry& entry = table.entry[tensor];
  const std::int64_t begin = (static_cast<std::int64_t>(blockIdx.x) - table.first_block[tensor]) * optim_piece, n = table.elements[tensor],
                     end = begin + optim_piece < n ? begin + optim_piece : n;
  NamedRows rows{0, 0, entry.width, slots, entry.gradient};
  bool named = false;
  if (Update && entry.id_count > 0) {
    rows.first_row = begin / entry.width;
    rows.start = static_cast<std::int32_t>(begin - rows.first_row * entry.width);
    const std::int64_t last_row = (end - 1) / entry.width;
    if (threadIdx.x < 2) range[threadIdx.x] = first_at_least(entry.ids, entry.id_count, threadIdx.x == 0 ? rows.first_row : last_row + 1);
    __syncthreads();
    named = range[0] < range[1];
    if (named) {
      for (std::int64_t r = threadIdx.x; r <= last_row - rows.first_row; r += block_threads) slots[r] = -1;
      __syncthreads();
      for (std::int64_t k = range[0] + threadIdx.x; k < range[1]; k += block_threads)
        slots[entry.ids[k] - rows.first_row] = static_cast<std::int32_t>(k);
      __syncthreads();
    }
  }
  const bool dense = Update && entry.ids == nullptr && entry.gradient != nullptr;
  const float factor = Update ? adam.scale.get() : 0.0f;
  double sum = 0;
#pragma unroll
  for (int round = 0; round < optim_rounds; ++round) {
    const std::int64_t i = begin + 4 * (round * block_threads + static_cast<int>(threadIdx.x));
    if (i >= end) break;
    const int count = end - i < 4 ? static_cast<int>(end - i) : 4;
    float4 p = load_packet(entry.parameter + i, count);
    if (Update) {
      float4 m = load_packet(entry.first + i, count), v = load_packet(entry.second + i, count), g = make_float4(0, 0, 0, 0);
      if (dense)
        g = load_packet(entry.gradient + i, count);
      else if (named)
        g = rows.packet(static_cast<std::int32_t>(i - begin), count);
      adam.apply(factor, entry.l2, g.x, p.x, m.x, v.x);
      adam.apply(factor, entry.l2, g.y, p.y, m.y, v.y);
      adam.apply(factor, entry.l2, g.z, p.z, m.z, v.z);
      adam.apply(factor, entry.l2, g.w, p.w, m.w, v.w);
      store_packet(entry.parameter + i, count, p);
      store_packet(entry.first + i, count, m);
      store_packet(entry.second + i, count, v);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (j < count) sum += static_cast<double>(lane4(p, j)) * lane4(p, j);
  }
  if (partials == nullptr) return;
  sum = block_sum(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

/// One block a tensor: squares[tensor] = its partial sums in order.
__global__ void __launch_bounds__(block_threads)
    finish_squares_kernel(const __grid_constant__ Table table, const double* partials, double* squares) {
  double sum = 0;
  for (std::int32_t i = table.first_block[blockIdx.x] + static_cast<int>(threadIdx.x); i < table.first_block[blockIdx.x + 1];
       i += block_threads)
    sum += partials[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) squares[table.first_tensor + blockIdx.x] = sum;
}

/// Sum over the elements of a piece of a gradient: g^2, (g + l2 p)^2, or for named rows g (g + 2 l2 p).
__global__ void __launch_bounds__(block_threads) regularised_norm_kernel(const __grid_constant__ Table table, double* partials) {
  const int tensor = table.tensor_of_block();
  const TableEntry& entry = table.entry[tensor];
  const std::int64_t begin = (static_cast<std::int64_t>(blockIdx.x) - table.first_block[tensor]) * optim_piece, n = table.elements[tensor],
                     end = begin + optim_piece < n ? begin + optim_piece : n;
  const double l2 = entry.l2;
  double sum = 0;
#pragma unroll
  for (int round = 0; round < optim_rounds; ++round) {
    const std::int64_t i = begin + 4 * (round * block_threads + static_cast<int>(threadIdx.x));
    if (i >= end) break;
    const int count = end - i < 4 ? static_cast<int>(end - i) : 4;
    float4 g = load_packet(entry.gradient + i, count), p = make_float4(0, 0, 0, 0);
    if (entry.l2 != 0 && entry.ids == nullptr) {
      p = load_packet(entry.parameter + i, count);
    } else if (entry.l2 != 0) {
      const std::int64_t k = i / entry.width, column = i - k * entry.width;
      if (column + 4 <= entry.width && count == 4) {
        const std::int32_t id = entry.ids[k];
        if (id != no_row) p = load_packet(entry.parameter + static_cast<std::int64_t>(id) * entry.width + column, 4);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (j >= count) break;
          const std::int64_t row = (i + j) / entry.width;
          const std::int32_t id = entry.ids[row];
          if (id != no_row) lane4(p, j) = entry.parameter[static_cast<std::int64_t>(id) * entry.width + (i + j - row * entry.width)];
        }
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j >= count) break;
      const double here = lane4(g, j), beside = l2 * lane4(p, j);
      sum += entry.ids == nullptr ? (here + beside) * (here + beside) : here * (here + 2 * beside);
    }
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

/// total = (add ? total : 0) + the partial sums + l2^2 squares of the tensors with rows.
__global__ void __launch_bounds__(block_threads)
    finish_norm_kernel(const __grid_constant__ Table table, bool add, const double* partials, const double* squares, double* total) {
  double sum = 0;
  for (std::int32_t i = threadIdx.x; i < table.first_block[table.count]; i += block_threads) sum += partials[i];
  for (int t = threadIdx.x; t < table.count; t += block_threads) {
    const TableEntry& entry = table.entry[t];
    if (entry.width < 0 && entry.l2 != 0) sum += static_cast<double>(entry.l2) * entry.l2 * squares[table.first_tensor + t];
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) *total = add ? *total + sum : sum;
}

/// A step of Adam on the elements of the named rows.
__global__ void __launch_bounds__(block_threads)
    row_adam_kernel(const __grid_constant__ Table table, const __grid_constant__ AdamCoefficients adam) {
  const int tensor = table.tensor_of_block();
  const TableEntry& entry = table.entry[tensor];
  const std::int64_t begin = (static_cast<std::int64_t>(blockIdx.x) - table.first_block[tensor]) * optim_piece, n = table.elements[tensor];
  const float factor = adam.scale.get();
#pragma unroll
  for (int round = 0; round < optim_rounds; ++round) {
    const std::int64_t i = begin + 4 * (round * block_threads + static_cast<int>(threadIdx.x));
    if (i >= n) return;
    const int count = n - i < 4 ? static_cast<int>(n - i) : 4;
    float4 g = load_packet(entry.gradient + i, count);
    for (int j = 0; j < count;) {  // once for a packet within a row
      const std::int64_t k = (i + j) / entry.width, column = i + j - k * entry.width;
      const int left = entry.width - column < count - j ? static_cast<int>(entry.width - column) : count - j;
      const std::int32_t id = entry.ids[k];
      if (id != no_row) {
        const std::int64_t at = static_cast<std::int64_t>(id) * entry.width + column;
        float4 p = load_packet(entry.parameter + at, left), m = load_packet(entry.first + at, left),
               v = load_packet(entry.second + at, left);
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if (e < left) adam.apply(factor, entry.l2, lane4(g, j + e), lane4(p, e), lane4(m, e), lane4(v, e));
        store_packet(entry.parameter + at, left, p);
        store_packet(entry.first + at, left, m);
        store_packet(entry.second + at, left, v);
      }
      j += left;
    }
  }
}

std::int64_t pieces(const RegularisedTensor* tensors, int count, View RegularisedTensor::*part) {
  std::int64_t blocks = 0;
  for (int t = 0; t < count; ++t) blocks += ceil_div((tensors[t].*part).size(), optim_piece);
  return blocks;
}

/// One pass over the parameters, with their sums of squares where `squares` is present.
template <bool Update>
void launch_tables(const char* kernel, const RegularisedTensor* tensors, const TableMoments* moments, int count,
                   const AdamCoefficients& adam, const View& squares, const View& scratch, Stream stream) {
  require(kernel, DType::f64, {&squares});
  double* partials = squares.empty() ? nullptr : scratch.as<double>();
  launch_tensors<Table>(
      count, [&](int t) { return table_entry(kernel, tensors[t], moments == nullptr ? nullptr : &moments[t]); },
      [&](int t) { return tensors[t].parameter.size(); },
      [&](const Table& table, unsigned blocks) {
        if (blocks > 0) table_kernel<Update><<<blocks, block_threads, 0, native(stream)>>>(table, adam, partials);
        check_launch(kernel);
        if (partials == nullptr) return;
        finish_squares_kernel<<<static_cast<unsigned>(table.count), block_threads, 0, native(stream)>>>(table, partials,
                                                                                                        squares.as<double>());
        check_launch(kernel);
        partials += blocks;
      });
}

}  // namespace

template <>
std::size_t scratch_bytes(const TableAdam& args) {
  return args.squares.empty() ? 0
                              : static_cast<std::size_t>(pieces(args.tensors, args.count, &RegularisedTensor::parameter)) * sizeof(double);
}

template <>
void run(const TableAdam& args, Stream stream) {
  require_scratch("table_adam", args.scratch, scratch_bytes(args));
  launch_tables<true>("table_adam", args.tensors, args.moments, args.count, AdamCoefficients("table_adam", args, args.weight_decay),
                      args.squares, args.scratch, stream);
}

template <>
std::size_t scratch_bytes(const SumOfSquares& args) {
  return static_cast<std::size_t>(pieces(args.tensors, args.count, &RegularisedTensor::parameter)) * sizeof(double);
}

template <>
void run(const SumOfSquares& args, Stream stream) {
  require_scratch("sum_of_squares", args.scratch, scratch_bytes(args));
  const TableAdam nothing{0, 0.5, 0.5, 1, 0, {}, 1, nullptr, nullptr, 0, {}, {}};
  launch_tables<false>("sum_of_squares", args.tensors, nullptr, args.count, AdamCoefficients("sum_of_squares", nothing, 0), args.squares,
                       args.scratch, stream);
}

template <>
std::size_t scratch_bytes(const RegularisedNorm& args) {
  return static_cast<std::size_t>(pieces(args.tensors, args.count, &RegularisedTensor::gradient)) * sizeof(double);
}

template <>
void run(const RegularisedNorm& args, Stream stream) {
  require("regularised_norm", DType::f64, {&args.total, &args.squares});
  require_scratch("regularised_norm", args.scratch, scratch_bytes(args));
  double* partials = args.scratch.as<double>();
  if (args.count == 0) {
    EXPCTR_CUDA_CHECK(cudaMemsetAsync(args.total.data, 0, sizeof(double), native(stream)));
    return;
  }
  launch_tensors<Table>(
      args.count, [&](int t) { return table_entry("regularised_norm", args.tensors[t], nullptr); },
      [&](int t) { return args.tensors[t].gradient.size(); },
      [&](Table& table, unsigned blocks) {
        if (blocks > 0) regularised_norm_kernel<<<blocks, block_threads, 0, native(stream)>>>(table, partials);
        check_launch("regularised_norm");
        // For the last kernel a negative width marks the tensors with rows.
        for (int t = 0; t < table.count; ++t) {
          const RegularisedTensor& tensor = args.tensors[table.first_tensor + t];
          if (!by_rows(tensor)) continue;
          table.entry[t].width = -1;
          if (tensor.l2 != 0 && args.squares.empty())
            throw Error("cuda: regularised_norm: no squares for a table with a regulariser", "run SumOfSquares first");
        }
        finish_norm_kernel<<<1, block_threads, 0, native(stream)>>>(table, table.first_tensor > 0, partials, args.squares.as<double>(),
                                                                    args.total.as<double>());
        check_launch("regularised_norm");
        partials += blocks;
      });
}

template <>
void run(const RowAdam& args, Stream stream) {
  const AdamCoefficients adam("row_adam", args, 0.0);
  launch_tensors<Table>(
      args.count,
      [&](int t) {
        if (!by_rows(args.tensors[t])) throw Error("cuda: row_adam: a tensor without ids", "tensors with a dense gradient go to AdamW");
        return table_entry("row_adam", args.tensors[t], &args.moments[t]);
      },
      [&](int t) { return args.tensors[t].gradient.size(); },
      [&](const Table& table, unsigned blocks) {
        if (blocks > 0) row_adam_kernel<<<blocks, block_threads, 0, native(stream)>>>(table, adam);
        check_launch("row_adam");
      });
}

}  // namespace expctr::cuda
