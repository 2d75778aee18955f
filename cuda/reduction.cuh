// Sums in an order that depends on shapes and storage only, in two launches: partial sums of chunks, then the chunks in ascending order.
// No atomics. Bytes: what the value functor reads, plus 2 x partials; memory bound. Sums of contiguous rows: row_sums; of the rows of a
// matrix, column by column: cuda/columns.cuh; of anything else, an element at a time: reduce.
#pragma once

#include <algorithm>

#include "cuda/columns.cuh"
#include "cuda/rows.cuh"

namespace expctr::cuda {

/// How [outputs] sums over [reduced] terms are cut; a function of the two extents alone.
struct ReductionPlan {
  std::int64_t outputs = 0, reduced = 0, chunks = 1, chunk = 0;
  bool wide = false;  ///< 256 lanes an output instead of 32
  std::size_t bytes(int values) const { return static_cast<std::size_t>(outputs * chunks * values) * sizeof(float); }
};

inline ReductionPlan plan_reduction(std::int64_t outputs, std::int64_t reduced) {
  ReductionPlan plan;
  plan.outputs = outputs;
  plan.reduced = reduced;
  plan.wide = outputs < 64 && reduced > 512;
  const std::int64_t lanes = plan.wide ? 256 : 32, output_blocks = std::max<std::int64_t>(1, ceil_div(outputs * lanes, block_threads));
  const std::int64_t most = std::max<std::int64_t>(1, ceil_div(reduced, lanes * 8));
  plan.chunks = std::clamp<std::int64_t>(512 / output_blocks, 1, std::min<std::int64_t>(most, 256));
  plan.chunk = std::max<std::int64_t>(1, ceil_div(reduced, plan.chunks));
  return plan;
}

/// partials[v][chunk][output]. value(output, r, sums) adds its terms to `float (&sums)[V]`. InnerReduced: neighbouring threads take
/// neighbouring r, else neighbouring outputs, so that either way neighbouring threads read neighbouring addresses.
template <int V, int Lanes, bool InnerReduced, class Value>
__global__ void __launch_bounds__(block_threads)
    partial_sums_kernel(Value value, std::int64_t outputs, std::int64_t reduced, std::int64_t chunk, float* partials) {
  constexpr int per_block = block_threads / Lanes;
  __shared__ float shared[V][Lanes][per_block];
  const int thread = threadIdx.x, lane = InnerReduced ? thread % Lanes : thread / per_block,
            slot = InnerReduced ? thread / Lanes : thread % per_block;
  const std::int64_t output = static_cast<std::int64_t>(blockIdx.x) * per_block + slot, begin = blockIdx.y * chunk,
                     end = begin + chunk < reduced ? begin + chunk : reduced;
  float sums[V] = {};
  if (output < outputs)
    for (std::int64_t r = begin + lane; r < end; r += Lanes) value(output, r, sums);
#pragma unroll
  for (int v = 0; v < V; ++v) shared[v][lane][slot] = sums[v];
  __syncthreads();
#pragma unroll
  for (int half = Lanes / 2; half > 0; half /= 2) {
    if (lane < half) {
#pragma unroll
      for (int v = 0; v < V; ++v) shared[v][lane][slot] += shared[v][lane + half][slot];
    }
    __syncthreads();
  }
  if (lane == 0 && output < outputs) {
#pragma unroll
    for (int v = 0; v < V; ++v) partials[(v * static_cast<std::int64_t>(gridDim.y) + blockIdx.y) * outputs + output] = shared[v][0][slot];
  }
}

/// store(output, const float (&sums)[V]) receives the finished sums. `scratch` holds plan.bytes(V).
template <int V, bool InnerReduced, class Value, class Store>
void reduce(const char* name, const ReductionPlan& plan, Value value, Store store, void* scratch, Stream stream) {
  if (plan.outputs == 0) return;
  float* partials = static_cast<float*>(scratch);
  const dim3 grid(blocks_for(plan.outputs * (plan.wide ? 256 : 32), block_threads), static_cast<unsigned>(plan.chunks));
  if (plan.wide)
    partial_sums_kernel<V, 256, InnerReduced>
        <<<grid, block_threads, 0, native(stream)>>>(value, plan.outputs, plan.reduced, plan.chunk, partials);
  else
    partial_sums_kernel<V, 32, InnerReduced>
        <<<grid, block_threads, 0, native(stream)>>>(value, plan.outputs, plan.reduced, plan.chunk, partials);
  check_launch(name);
  finish_columns_kernel<V>
      <<<blocks_for(plan.outputs, block_threads), block_threads, 0, native(stream)>>>(store, plan.outputs, plan.chunks, partials);
  check_launch(name);
}

/// How the sums of the rows of [outputs, reduced] are cut; a function of the two extents alone.
struct RowPlan {
  std::int64_t outputs = 0, reduced = 0, chunks = 1, chunk = 8;
  bool wide = false;  ///< a block a row instead of a warp
  std::size_t bytes(int values) const { return chunks == 1 ? 0 : static_cast<std::size_t>(outputs * chunks * values) * sizeof(float); }
};

inline RowPlan plan_rows(std::int64_t outputs, std::int64_t reduced) {
  RowPlan plan;
  plan.outputs = outputs;
  plan.reduced = reduced;
  plan.wide = reduced > 2048;
  const std::int64_t lanes = plan.wide ? 256 : 32, wanted = ceil_div(1 << 16, std::max<std::int64_t>(1, outputs * lanes));
  plan.chunks = std::clamp<std::int64_t>(wanted, 1, std::clamp<std::int64_t>(ceil_div(reduced, lanes * 16), 1, 256));
  plan.chunk = std::max<std::int64_t>(8, ceil_div(ceil_div(reduced, plan.chunks), 8) * 8);  // whole packets
  return plan;
}

/// Term: `add<N>(std::int64_t output, std::int64_t r, float (&sums)[V][N])` adds its terms r .. r + N - 1. Store as in columns.cuh.
template <int N, int V, int Lanes, class Term, class Store>
__global__ void __launch_bounds__(block_threads)
    row_sums_kernel(Term term, Store store, std::int64_t outputs, std::int64_t reduced, std::int64_t chunk, float* partials) {
  __shared__ float shared[8];
  constexpr int groups = block_threads / Lanes;
  const std::int64_t output = static_cast<std::int64_t>(blockIdx.x) * groups + threadIdx.x / Lanes, begin = blockIdx.y * chunk,
                     end = begin + chunk < reduced ? begin + chunk : reduced;
  if (output >= outputs) return;
  const int lane = static_cast<int>(threadIdx.x) % Lanes;
  float sums[V][N] = {}, totals[V];
  for (std::int64_t r = begin + lane * N; r < end; r += Lanes * N) term.template add<N>(output, r, sums);
#pragma unroll
  for (int v = 0; v < V; ++v) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) sum += sums[v][i];
    totals[v] = group_reduce<Lanes>(sum, shared);
  }
  if (lane != 0) return;
  if (gridDim.y == 1) return store(output, totals);
#pragma unroll
  for (int v = 0; v < V; ++v) partials[(v * static_cast<std::int64_t>(gridDim.y) + blockIdx.y) * outputs + output] = totals[v];
}

/// store(output, sums) receives the sums of the rows. N > 1: `reduced` is a multiple of N and the term may read packets. `scratch` holds
/// plan.bytes(V).
template <int N, int V, class Term, class Store>
void row_sums(const char* name, const RowPlan& plan, Term term, Store store, void* scratch, Stream stream) {
  if (plan.outputs == 0) return;
  float* partials = static_cast<float*>(scratch);
  const dim3 grid(blocks_for(plan.outputs * (plan.wide ? 256 : 32), block_threads), static_cast<unsigned>(plan.chunks));
  if (plan.wide)
    row_sums_kernel<N, V, 256><<<grid, block_threads, 0, native(stream)>>>(term, store, plan.outputs, plan.reduced, plan.chunk, partials);
  else
    row_sums_kernel<N, V, 32><<<grid, block_threads, 0, native(stream)>>>(term, store, plan.outputs, plan.reduced, plan.chunk, partials);
  check_launch(name);
  if (plan.chunks == 1) return;
  finish_columns_kernel<V>
      <<<blocks_for(plan.outputs, block_threads), block_threads, 0, native(stream)>>>(store, plan.outputs, plan.chunks, partials);
  check_launch(name);
}

}  // namespace expctr::cuda
