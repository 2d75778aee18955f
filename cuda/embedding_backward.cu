// Gradients of look-ups by rows. The (row, entry) pairs of all tables are sorted at once with a stable radix sort (cuda/radix_sort.cuh; 20
// bytes a pair and pass), heads of equal rows are numbered (12 bytes a pair), then a group of lanes adds the entries of one row in
// ascending order: 4 (or 2) bytes an element of dy plus those of the touched rows, bound by memory. A row with more than 512 entries is cut
// into runs of 512 that different groups add; a last kernel adds the runs in order. No atomics, nothing of the size of a table; the bits do
// not depend on anything but the ids. An id past the table gets no gradient: a kernel cannot throw.
#include <algorithm>

#include "base/blocks.h"
#include "base/kernels/embedding.h"
#include "cuda/embedding_lists.cuh"
#include "cuda/radix_sort.cuh"

namespace expctr::cuda {

namespace {

constexpr int run_length = 512, head_rounds = 4, head_tile = block_threads * head_rounds;

/// key = first key of the space + id, or + rows for entries that name no row; place = number of the entry.
__global__ void __launch_bounds__(block_threads)
    make_pairs_kernel(const __grid_constant__ ListTable lists, std::uint32_t* keys, std::uint32_t* places) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (i >= lists.first[lists.count]) return;
  const int list = lists.list_of(i), space = lists.space[list];
  const std::int32_t id = lists.ids[list][i - lists.first[list]];
  const bool named = id >= 0 && id < lists.rows[space] && id != lists.frozen_row[space];
  keys[i] = lists.first_key[space] + static_cast<std::uint32_t>(named ? id : lists.rows[space]);
  places[i] = static_cast<std::uint32_t>(i);
}

/// Tiles of the sorted pairs, none across two spaces.
struct HeadTiles {
  std::int32_t first_tile[most_lists + 1];
};

/// One sorted pair of a block's tile.
struct SortedPair {
  int space;
  std::int64_t i;     ///< place within the space
  bool inside, head;  ///< names a row; is the first of it
  std::uint32_t row;
};

__device__ __forceinline__ SortedPair sorted_pair(const ListTable& lists, const HeadTiles& tiles, int round, const std::uint32_t* keys) {
  SortedPair pair;
  pair.space = ListTable::find(tiles.first_tile, 0, lists.spaces, blockIdx.x);
  pair.i = static_cast<std::int64_t>(blockIdx.x - tiles.first_tile[pair.space]) * head_tile + round * block_threads + threadIdx.x;
  const std::int64_t base = lists.base[pair.space];
  pair.inside = pair.i < lists.base[pair.space + 1] - base;
  pair.row = pair.inside ? keys[base + pair.i] - lists.first_key[pair.space] : 0;
  pair.inside = pair.inside && pair.row < lists.rows[pair.space];
  pair.head = pair.inside && (pair.i == 0 || keys[base + pair.i - 1] - lists.first_key[pair.space] != pair.row);
  return pair;
}

/// Heads up to and with this thread, and in the whole block.
__device__ __forceinline__ void count_heads(bool head, std::uint32_t& up_to_here, std::uint32_t& all) {
  __shared__ std::uint32_t of_warp[block_threads / 32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const std::uint32_t heads = __ballot_sync(0xFFFFFFFFu, head);
  __syncthreads();  // the counts of the round before have been read
  if (lane == 0) of_warp[warp] = __popc(heads);
  __syncthreads();
  up_to_here = __popc(heads & (0xFFFFFFFFu >> (31 - lane)));
  all = 0;
#pragma unroll
  for (int w = 0; w < block_threads / 32; ++w) {
    if (w < warp) up_to_here += of_warp[w];
    all += of_warp[w];
  }
}

__global__ void __launch_bounds__(block_threads)
    count_heads_kernel(const __grid_constant__ ListTable lists, const __grid_constant__ HeadTiles tiles, const std::uint32_t* keys,
                       std::uint32_t* heads_of_tile) {
  std::uint32_t total = 0;
  for (int round = 0; round < head_rounds; ++round) {
    std::uint32_t up_to_here, all;
    count_heads(sorted_pair(lists, tiles, round, keys).head, up_to_here, all);
    total += all;
  }
  if (threadIdx.x == 0) heads_of_tile[blockIdx.x] = total;
}

/// One block a space: heads before each of its tiles, and how many there are.
__global__ void __launch_bounds__(1024) scan_heads_kernel(const __grid_constant__ ListTable lists, const __grid_constant__ HeadTiles tiles,
                                                          std::uint32_t* heads_of_tile, std::int32_t* counts, std::int32_t* starts) {
  const int space = blockIdx.x, first = tiles.first_tile[space];
  const std::uint32_t total = scan_by_block(tiles.first_tile[space + 1] - first, heads_of_tile + first);
  if (threadIdx.x != 1023) return;
  counts[space] = static_cast<std::int32_t>(total);
  if (total == 0) starts[lists.base[space] + space] = 0;
}

__global__ void __launch_bounds__(block_threads)
    write_segments_kernel(const __grid_constant__ ListTable lists, const __grid_constant__ HeadTiles tiles, const std::uint32_t* keys,
                          const std::uint32_t* heads_before, const std::int32_t* counts, std::int32_t* unique, std::int32_t* starts,
                          std::int32_t* segments) {
  std::uint32_t before = heads_before[blockIdx.x];
  for (int round = 0; round < head_rounds; ++round) {
    const SortedPair pair = sorted_pair(lists, tiles, round, keys);
    std::uint32_t up_to_here, all;
    count_heads(pair.head, up_to_here, all);
    const std::int64_t base = lists.base[pair.space], n = lists.base[pair.space + 1] - base;
    if (pair.inside) {
      const std::int64_t k = static_cast<std::int64_t>(before + up_to_here) - 1;
      segments[base + pair.i] = static_cast<std::int32_t>(k);
      if (pair.head) {
        unique[base + k] = static_cast<std::int32_t>(pair.row);
        starts[base + pair.space + k] = static_cast<std::int32_t>(pair.i);
      }
      const bool last = pair.i + 1 == n || keys[base + pair.i + 1] - lists.first_key[pair.space] >= lists.rows[pair.space];
      if (last) starts[base + pair.space + k + 1] = static_cast<std::int32_t>(pair.i + 1);
    }
    if (pair.i < n && pair.i >= counts[pair.space]) unique[base + pair.i] = no_row;
    before += all;
  }
}

struct SortPlan {
  std::int64_t n = 0, tiles = 0;
  std::size_t bytes() const { return static_cast<std::size_t>(3 * n + histogram_words(n) + tiles) * sizeof(std::uint32_t); }
};

SortPlan plan_sort(int spaces, const IdList* lists, int list_count) {
  SortPlan plan;
  for (int l = 0; l < list_count; ++l) plan.n += lists[l].ids.size();
  plan.tiles = ceil_div(plan.n, head_tile) + spaces;
  return plan;
}

/// Where sums go, beside the lists.
struct TargetTable {
  float* out[most_lists];  ///< null: skipped
  std::int32_t width[most_lists];
  bool in_rows[most_lists], vector[most_lists];
};

struct SortedArrays {
  const std::int32_t *unique, *counts, *places, *starts, *segments;
};

__device__ __forceinline__ float4 load4(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ __forceinline__ float4 load4(const std::uint16_t* p) {
  const ushort4 bits = *reinterpret_cast<const ushort4*>(p);
  return make_float4(float_of_bf16(bits.x), float_of_bf16(bits.y), float_of_bf16(bits.z), float_of_bf16(bits.w));
}
__device__ __forceinline__ float load1(const float* p) { return *p; }
__device__ __forceinline__ float load1(const std::uint16_t* p) { return float_of_bf16(*p); }
__device__ __forceinline__ float4 plus(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }
__device__ __forceinline__ float plus(float a, float b) { return a + b; }

/// Neighbouring lanes of a warp that work on one row.
struct Group {
  std::uint32_t mask;
  int lanes, lane;

  explicit __device__ __forceinline__ Group(int count) : lanes(count), lane(static_cast<int>(threadIdx.x) % count) {
    const int first = static_cast<int>(threadIdx.x) % 32 - lane;
    mask = (count == 32 ? 0xFFFFFFFFu : (1u << count) - 1u) << first;
  }
  template <class T>
  __device__ __forceinline__ T from(int source, T value) const {
    return __shfl_sync(mask, value, source, lanes);
  }
};

/// start + the vectors of places[begin .. end - 1] at `column`, added one after the other; four loads are under way at a time. Each lane
/// looks up one entry and hands its place on. `active`: this lane has a column.
template <class V, class T, class Load>
__device__ __forceinline__ V add_entries(V start, bool active, const Group& group, const ListTable& lists, int space,
                                         const std::int32_t* places, std::int64_t begin, std::int64_t end, std::int64_t column, const T* dy,
                                         Load load) {
  V sum = start;
  for (std::int64_t i = begin; i < end; i += group.lanes) {
    const int here = end - i < group.lanes ? static_cast<int>(end - i) : group.lanes;
    long long element = 0;
    if (group.lane < here) element = lists.element(space, places[i + group.lane]);
    for (int j = 0; j < here; j += 4) {
      V value[4];
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const long long at = group.from((j + q) % group.lanes, element);
        if (active && j + q < here) value[q] = load(dy + at + column);
      }
#pragma unroll
      for (int q = 0; q < 4; ++q)
        if (active && j + q < here) sum = plus(sum, value[q]);
    }
  }
  return sum;
}

/// Slot of the partial sums of a run of a long segment: a stretch of 512 places holds at most the first run of one and a later run of
/// another.
__device__ __forceinline__ std::int64_t run_slot(std::int64_t place, bool first) { return 2 * (place / run_length) + (first ? 1 : 0); }

/// A group of `lanes` lanes at every place; those at the start of a run add it. Rows behind the last one become zero.
template <class T>
__global__ void __launch_bounds__(block_threads)
    reduce_rows_kernel(const __grid_constant__ ListTable lists, const __grid_constant__ TargetTable targets, SortedArrays sorted, int lanes,
                       std::int64_t widest, const T* dy, float* partials) {
  const std::int64_t place = (static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x) / lanes;
  if (place >= lists.base[lists.spaces]) return;
  const Group group(lanes);
  const int space = lists.space_of(place);
  float* out = targets.out[space];
  if (out == nullptr) return;
  const std::int64_t base = lists.base[space], i = place - base, width = targets.width[space];
  const std::int32_t *starts = sorted.starts + base + space, *places = sorted.places + base;
  std::int32_t count = 0, k = -1, begin = 0, end = 0;
  if (group.lane == 0) {
    count = sorted.counts[space];
    if (i < starts[count]) {
      k = sorted.segments[place];
      begin = starts[k];
      end = starts[k + 1];
    }
  }
  count = group.from(0, count);
  k = group.from(0, k);
  begin = group.from(0, begin);
  end = group.from(0, end);
  const bool in_rows = targets.in_rows[space], vector = targets.vector[space];
  const int step = vector ? 4 : 1;
  if (in_rows && i >= count) {
    for (std::int64_t c = step * group.lane; c < width; c += step * lanes) {
      if (vector)
        *reinterpret_cast<float4*>(out + i * width + c) = make_float4(0, 0, 0, 0);
      else
        out[i * width + c] = 0;
    }
  }
  if (k < 0 || (i - begin) % run_length != 0) return;
  const std::int64_t run_end = i + run_length < end ? i + run_length : end;
  const bool in_runs = end - begin > run_length;
  float* to = in_runs ? partials + run_slot(place, i == begin) * widest : out + (in_rows ? k : sorted.unique[base + k]) * width;
  const bool adds = !in_runs && !in_rows;
  for (std::int64_t first = 0; first < width; first += step * lanes) {
    const std::int64_t c = first + step * group.lane;
    const bool active = c < width;
    if (vector) {
      const float4 start = adds && active ? load4(to + c) : make_float4(0, 0, 0, 0);
      const float4 sum = add_entries(start, active, group, lists, space, places, i, run_end, c, dy, [](const T* p) { return load4(p); });
      if (active) *reinterpret_cast<float4*>(to + c) = sum;
    } else {
      const float sum = add_entries(adds && active ? to[c] : 0.0f, active, group, lists, space, places, i, run_end, c, dy,
                                    [](const T* p) { return load1(p); });
      if (active) to[c] = sum;
    }
  }
}

/// One warp for each stretch of 512 places: adds the runs of the long segment that begins in it, if one does (it then holds the stretch's
/// last place).
__global__ void __launch_bounds__(block_threads)
    add_runs_kernel(const __grid_constant__ ListTable lists, const __grid_constant__ TargetTable targets, SortedArrays sorted,
                    std::int64_t widest, const float* partials) {
  const std::int64_t stretch = (static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x) / 32, n = lists.base[lists.spaces];
  if (stretch * run_length >= n) return;
  const std::int64_t place = stretch * run_length + run_length - 1 < n ? stretch * run_length + run_length - 1 : n - 1;
  const int space = lists.space_of(place);
  float* out = targets.out[space];
  if (out == nullptr) return;
  const std::int64_t base = lists.base[space], width = targets.width[space];
  const std::int32_t* starts = sorted.starts + base + space;
  if (place - base >= starts[sorted.counts[space]]) return;
  const std::int32_t k = sorted.segments[place];
  const std::int64_t begin = starts[k], end = starts[k + 1];
  if (end - begin <= run_length || base + begin < stretch * run_length) return;
  const bool in_rows = targets.in_rows[space];
  float* to = out + (in_rows ? k : sorted.unique[base + k]) * width;
  for (std::int64_t c = threadIdx.x % 32; c < width; c += 32) {
    float sum = in_rows ? 0.0f : to[c];
    for (std::int64_t i = begin; i < end; i += run_length) sum += partials[run_slot(base + i, i == begin) * widest + c];
    to[c] = sum;
  }
}

const View& target_of(const RowTarget& target) { return target.rows.empty() ? target.table : target.rows; }

std::int64_t widest_target(const ReduceRows& args) {
  std::int64_t widest = 0;
  for (int s = 0; s < args.space_count; ++s)
    if (!target_of(args.targets[s]).empty()) widest = std::max(widest, target_of(args.targets[s]).width());
  return ceil_div(widest, 4) * 4;
}

template <class T>
void launch_reduce(const ReduceRows& args, const ListTable& lists, Stream stream) {
  TargetTable targets{};
  std::int64_t most_lanes = 1;
  const std::int64_t dy_alignment = 4 * static_cast<std::int64_t>(sizeof(T));
  for (int s = 0; s < args.space_count; ++s) {
    const RowTarget& target = args.targets[s];
    const View& out = target_of(target);
    if (out.empty()) continue;
    require_f32("reduce_rows", {&out});
    if (target.rows.empty() ? out.rows() != args.spaces[s].rows : out.rows() != lists.base[s + 1] - lists.base[s])
      throw Error("cuda: reduce_rows: a target has " + std::to_string(out.rows()) + " rows",
                  "a table has all of its rows, a list one for each id");
    targets.out[s] = out.as<float>();
    targets.width[s] = static_cast<std::int32_t>(out.width());
    targets.in_rows[s] = !target.rows.empty();
    bool vector = out.width() % 4 == 0 && aligned16(out.data) && reinterpret_cast<std::uintptr_t>(args.dy.data) % dy_alignment == 0;
    for (int l = 0; l < args.list_count; ++l)
      if (args.lists[l].space == s) vector = vector && args.lists[l].offset % 4 == 0 && args.lists[l].stride % 4 == 0;
    targets.vector[s] = vector;
    most_lanes = std::max(most_lanes, vector ? out.width() / 4 : out.width());
  }
  int lanes = 1;
  while (lanes < 32 && lanes < most_lanes) lanes *= 2;
  const SortedArrays sorted{args.unique.as<std::int32_t>(), args.counts.as<std::int32_t>(), args.places.as<std::int32_t>(),
                            args.starts.as<std::int32_t>(), args.segments.as<std::int32_t>()};
  const std::int64_t n = lists.base[lists.spaces], widest = widest_target(args);
  float* partials = args.scratch.as<float>();
  reduce_rows_kernel<T><<<blocks_for(n * lanes, block_threads), block_threads, 0, native(stream)>>>(lists, targets, sorted, lanes, widest,
                                                                                                    args.dy.as<T>(), partials);
  check_launch("reduce_rows");
  if (n <= run_length) return;
  add_runs_kernel<<<blocks_for(ceil_div(n, run_length) * 32, block_threads), block_threads, 0, native(stream)>>>(lists, targets, sorted,
                                                                                                                 widest, partials);
  check_launch("reduce_rows");
}

}  // namespace

template <>
std::size_t scratch_bytes(const SortIds& args) {
  return plan_sort(args.space_count, args.lists, args.list_count).bytes();
}

template <>
void run(const SortIds& args, Stream stream) {
  require("sort_ids", DType::i32, {&args.unique, &args.counts, &args.places, &args.starts, &args.segments});
  const SortPlan plan = plan_sort(args.space_count, args.lists, args.list_count);
  require_scratch("sort_ids", args.scratch, plan.bytes());
  if (args.space_count == 0) return;
  const ListTable lists = list_table("sort_ids", args.spaces, args.space_count, args.lists, args.list_count);
  HeadTiles tiles{};
  for (int s = 0; s < args.space_count; ++s)
    tiles.first_tile[s + 1] = tiles.first_tile[s] + static_cast<std::int32_t>(ceil_div(lists.base[s + 1] - lists.base[s], head_tile));
  const std::int64_t n = plan.n;
  std::uint32_t *keys = args.scratch.as<std::uint32_t>(), *other_keys = keys + n, *other_places = other_keys + n,
                *histogram = other_places + n, *heads_of_tile = histogram + histogram_words(n);
  if (n > 0) {
    // The last pass writes into args.places.
    const int passes = sort_passes(lists.first_key[args.space_count - 1] + static_cast<std::uint64_t>(lists.rows[args.space_count - 1]));
    std::uint32_t *places = args.places.as<std::uint32_t>(), *others = other_places;
    if (passes % 2 != 0) std::swap(places, others);
    make_pairs_kernel<<<blocks_for(n, block_threads), block_threads, 0, native(stream)>>>(lists, keys, places);
    sort_pairs(n, passes, keys, places, other_keys, others, histogram, stream);
    if (passes % 2 != 0) std::swap(keys, other_keys);
    count_heads_kernel<<<blocks_for(tiles.first_tile[args.space_count], 1), block_threads, 0, native(stream)>>>(lists, tiles, keys,
                                                                                                                heads_of_tile);
  }
  scan_heads_kernel<<<static_cast<unsigned>(args.space_count), 1024, 0, native(stream)>>>(
      lists, tiles, heads_of_tile, args.counts.as<std::int32_t>(), args.starts.as<std::int32_t>());
  if (n > 0)
    write_segments_kernel<<<blocks_for(tiles.first_tile[args.space_count], 1), block_threads, 0, native(stream)>>>(
        lists, tiles, keys, heads_of_tile, args.counts.as<std::int32_t>(), args.unique.as<std::int32_t>(), args.starts.as<std::int32_t>(),
        args.segments.as<std::int32_t>());
  check_launch("sort_ids");
}

/// Two partial sums for each stretch of 512 places.
template <>
std::size_t scratch_bytes(const ReduceRows& args) {
  std::int64_t n = 0;
  for (int l = 0; l < args.list_count; ++l) n += args.lists[l].ids.size();
  return n <= run_length ? 0 : static_cast<std::size_t>(2 * ceil_div(n, run_length) * widest_target(args)) * sizeof(float);
}

template <>
void run(const ReduceRows& args, Stream stream) {
  require("reduce_rows", DType::i32, {&args.unique, &args.counts, &args.places, &args.starts, &args.segments});
  require_scratch("reduce_rows", args.scratch, scratch_bytes(args));
  const ListTable lists = list_table("reduce_rows", args.spaces, args.space_count, args.lists, args.list_count);
  if (lists.first[lists.count] == 0) return;
  if (args.dy.dtype == DType::bf16) return launch_reduce<std::uint16_t>(args, lists, stream);
  require_f32("reduce_rows", {&args.dy});
  launch_reduce<float>(args, lists, stream);
}

namespace {

/// One table, one list: scratch = the sorted arrays, then what the two steps want.
struct BackwardPlan {
  IdSpace space;
  IdList list;
  RowTarget target;
  std::int64_t n = 0;
  std::size_t array_words = 0;

  explicit BackwardPlan(const GatherBackward& args)
      : space{args.dtable.rows(), args.frozen_row}, list{0, args.ids, 0, args.dtable.width()}, target{{}, args.dtable}, n(args.ids.size()) {
    array_words = static_cast<std::size_t>(ceil_div(4 * n + 2, 4) * 4);
  }
  View part(const View& scratch, std::int64_t first, std::int64_t words) const {
    View view;
    view.data = scratch.as<std::int32_t>() + first;
    view.dtype = DType::i32;
    view.rank = 1;
    view.shape[0] = words;
    return view;
  }
  SortIds sort(const View& scratch) const {
    return {&space,
            1,
            &list,
            1,
            part(scratch, 0, n),
            part(scratch, n, 1),
            part(scratch, n + 1, n),
            part(scratch, 2 * n + 1, n + 1),
            part(scratch, 3 * n + 2, n),
            {}};
  }
  ReduceRows reduce(const GatherBackward& args, const SortIds& sorted) const {
    return {&space, &target, 1, &list, 1, args.dy, sorted.unique, sorted.counts, sorted.places, sorted.starts, sorted.segments, {}};
  }
};

}  // namespace

template <>
std::size_t scratch_bytes(const GatherBackward& args) {
  const BackwardPlan plan(args);
  const SortIds sort = plan.sort({});
  return plan.array_words * sizeof(std::uint32_t) + std::max(scratch_bytes(sort), scratch_bytes(plan.reduce(args, sort)));
}

template <>
void run(const GatherBackward& args, Stream stream) {
  require_scratch("gather_backward", args.scratch, scratch_bytes(args));
  if (args.ids.size() == 0 || args.dtable.size() == 0) return;
  const BackwardPlan plan(args);
  SortIds sort = plan.sort(args.scratch);
  ReduceRows reduce = plan.reduce(args, sort);
  View rest = args.scratch;
  rest.data = args.scratch.as<std::uint32_t>() + plan.array_words;
  rest.shape[0] -= static_cast<std::int64_t>(plan.array_words * sizeof(std::uint32_t));
  sort.scratch = reduce.scratch = rest;
  run(sort, stream);
  run(reduce, stream);
}

}  // namespace expctr::cuda
