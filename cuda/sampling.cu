// Sampling, a block of 1024 threads a row, without sorting. Probabilities are integers of 2^-40 relative to the largest, so that sums of
// any order agree to the last bit: top-k and top-p are radix selects over the order-preserving bits of the logits (4 passes, with counts or
// masses in the histogram), and the token is found by an integer prefix sum in order of id. The row (4 bytes a class, 2 in bf16) is read
// from cache 3 to 15 times, one exponential each; bound by the exponentials and by having one block a row.
#include "base/kernels/sampling.h"
#include "cuda/packet.cuh"

namespace expctr::cuda {

namespace {

using u64 = unsigned long long;

constexpr int threads = 1024, warps = threads / 32;

/// What the block shares between its steps.
struct Shared {
  u64 histogram[256];
  u64 partial[warps];
  float partial_float[warps];
  u64 found_above;
  unsigned found_digit;
  int found_id;
};

/// Larger logit, larger key; both zeros alike; NaN below everything.
__device__ __forceinline__ std::uint32_t key_of(float logit) {
  if (isnan(logit)) return 0;
  const std::uint32_t bits = bits_of_float(logit + 0.0f);
  return bits ^ ((bits & 0x80000000u) != 0 ? 0xFFFFFFFFu : 0x80000000u);
}

__device__ __forceinline__ u64 warp_sum(u64 value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, offset);
  return value;
}

__device__ __forceinline__ u64 block_sum(u64 value, Shared& shared) {
  value = warp_sum(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared.partial[threadIdx.x / 32] = value;
  __syncthreads();
  return warp_sum(shared.partial[threadIdx.x % 32]);
}

__device__ __forceinline__ u64 block_maximum(u64 value, Shared& shared) {
  const auto warp_maximum = [](u64 v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      const u64 other = __shfl_xor_sync(0xFFFFFFFFu, v, offset);
      v = other > v ? other : v;
    }
    return v;
  };
  value = warp_maximum(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared.partial[threadIdx.x / 32] = value;
  __syncthreads();
  return warp_maximum(shared.partial[threadIdx.x % 32]);
}

__device__ __forceinline__ float block_sum(float value, Shared& shared) {
  const auto warp_total = [](float v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(0xFFFFFFFFu, v, offset);
    return v;
  };
  value = warp_total(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared.partial_float[threadIdx.x / 32] = value;
  __syncthreads();
  return warp_total(shared.partial_float[threadIdx.x % 32]);
}

/// The kept classes: those with a larger key, and those with this key up to an id.
struct Kept {
  std::uint32_t key;
  int last_id;
  __device__ __forceinline__ bool holds(std::uint32_t k, int id) const { return k > key || (k == key && id <= last_id); }
};

template <class S>
struct Row {
  const S* logits;
  int classes;
  float inverse_temperature, top;  ///< top = largest scaled logit

  __device__ __forceinline__ float logit(int id) const { return widen(logits[id]); }
  __device__ __forceinline__ float scaled(int id) const { return logit(id) * inverse_temperature; }
  /// Probability relative to the largest.
  __device__ __forceinline__ double relative(int id) const { return exp(static_cast<double>(scaled(id)) - static_cast<double>(top)); }
  __device__ __forceinline__ static u64 mass(double relative) { return static_cast<u64>(relative * 1099511627776.0 + 0.5); }
};

/// The first id, in order, up to which `weight` sums to more than `target` (there must be one).
template <class Weight>
__device__ int find_in_order(int classes, Weight weight, u64 target, Shared& shared) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, share = (classes + warps - 1) / warps, begin = warp * share,
            end = begin + share < classes ? begin + share : classes;
  u64 sum = 0;
  for (int id = begin + lane; id < end; id += 32) sum += weight(id);
  sum = warp_sum(sum);
  __syncthreads();
  if (lane == 0) shared.partial[warp] = sum;
  __syncthreads();
  u64 before = 0;
  for (int w = 0; w < warp; ++w) before += shared.partial[w];
  if (before <= target && before + sum > target) {  // true in one warp
    for (int start = begin; start < end; start += 32) {
      u64 inclusive = start + lane < end ? weight(start + lane) : 0;
#pragma unroll
      for (int offset = 1; offset < 32; offset *= 2) {
        const u64 left = __shfl_up_sync(0xFFFFFFFFu, inclusive, offset);
        if (lane >= offset) inclusive += left;
      }
      const unsigned above = __ballot_sync(0xFFFFFFFFu, before + inclusive > target);
      if (above != 0) {
        if (lane == 0) shared.found_id = start + __ffs(static_cast<int>(above)) - 1;
        break;
      }
      before += __shfl_sync(0xFFFFFFFFu, inclusive, 31);
    }
  }
  __syncthreads();
  return shared.found_id;
}

/// Cuts `kept` to its best classes: the fewest, larger logits and lower ids first, whose weights reach `target` (at least 1, at most all
/// weights).
template <class S, class Weight>
__device__ Kept keep_best(const Row<S>& row, const Kept& kept, Weight weight, u64 target, Shared& shared) {
  std::uint32_t prefix = 0;
  u64 above = 0;  // weight of the classes whose key is certainly larger
  for (int shift = 24; shift >= 0; shift -= 8) {
    __syncthreads();
    if (threadIdx.x < 256) shared.histogram[threadIdx.x] = 0;
    __syncthreads();
    for (int start = 0; start < row.classes; start += threads) {
      const int id = start + static_cast<int>(threadIdx.x);
      const std::uint32_t key = id < row.classes ? key_of(row.logit(id)) : 0;
      const bool counts = id < row.classes && kept.holds(key, id) && (shift == 24 || key >> (shift + 8) == prefix >> (shift + 8));
      const unsigned digit = counts ? (key >> shift) & 255u : 256u;
      const u64 value = counts ? weight(id) : 0;
      int same = 0;
      __match_all_sync(0xFFFFFFFFu, digit, &same);
      if (same != 0) {  // neighbours mostly agree in the upper digits: one addition instead of 32 to one address
        const u64 sum = warp_sum(value);
        if (digit < 256 && threadIdx.x % 32 == 0) atomicAdd(&shared.histogram[digit], sum);
      } else if (counts) {
        atomicAdd(&shared.histogram[digit], value);
      }
    }
    __syncthreads();
    if (threadIdx.x < 32) {  // lane 0 holds the 8 largest digits, lane 31 the 8 smallest
      const int lane = static_cast<int>(threadIdx.x), largest = 255 - 8 * lane;
      u64 sum = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) sum += shared.histogram[largest - i];
      u64 inclusive = sum;
#pragma unroll
      for (int offset = 1; offset < 32; offset *= 2) {
        const u64 left = __shfl_up_sync(0xFFFFFFFFu, inclusive, offset);
        if (lane >= offset) inclusive += left;
      }
      u64 before = above + inclusive - sum;
      if (before < target && before + sum >= target) {
        int digit = largest;
        while (before + shared.histogram[digit] < target) before += shared.histogram[digit--];
        shared.found_above = before;
        shared.found_digit = static_cast<unsigned>(digit);
      }
    }
    __syncthreads();
    above = shared.found_above;
    prefix |= shared.found_digit << shift;
  }
  // All ties have the same weight.
  const int first_tie = find_in_order(
      row.classes,
      [&](int id) -> u64 {
        const std::uint32_t key = key_of(row.logit(id));
        return key == prefix && kept.holds(key, id);
      },
      0, shared);
  const u64 each = weight(first_tie), needed = each == 0 ? 1 : (target - above + each - 1) / each;
  const int last = find_in_order(
      row.classes,
      [&](int id) -> u64 {
        const std::uint32_t key = key_of(row.logit(id));
        return key == prefix && kept.holds(key, id);
      },
      needed - 1, shared);
  return {prefix, last};
}

template <class S>
__global__ void __launch_bounds__(threads, 1)
    sample_kernel(int classes, float temperature_inverse, bool greedy, double top_p, double min_p, int top_k, const S* all_logits,
                  const float* u, std::int32_t* token, float* log_probability) {
  __shared__ Shared shared;
  Row<S> row{all_logits + static_cast<std::int64_t>(blockIdx.x) * classes, classes, temperature_inverse, 0.0f};
  u64 best = 0;
  for (int id = static_cast<int>(threadIdx.x); id < classes; id += threads) {
    const u64 candidate = static_cast<u64>(key_of(row.logit(id))) << 32 | (0xFFFFFFFFu - static_cast<std::uint32_t>(id));
    best = candidate > best ? candidate : best;
  }
  best = block_maximum(best, shared);
  const int best_id = static_cast<int>(0xFFFFFFFFu - static_cast<std::uint32_t>(best));
  row.top = row.scaled(best_id);
  float total = 0;
  for (int id = static_cast<int>(threadIdx.x); id < classes; id += threads) total += expf(row.scaled(id) - row.top);
  total = block_sum(total, shared);

  int chosen = best_id;
  if (!greedy && row.top > -INFINITY) {
    const auto mass_of = [&](int id) { return Row<S>::mass(row.relative(id)); };
    Kept kept{key_of(-INFINITY), -1};
    if (top_k > 0) {
      u64 candidates = 0;
      for (int id = static_cast<int>(threadIdx.x); id < classes; id += threads) candidates += kept.holds(key_of(row.logit(id)), id);
      candidates = block_sum(candidates, shared);
      if (static_cast<u64>(top_k) < candidates)
        kept = keep_best(
            row, kept, [](int) -> u64 { return 1; }, static_cast<u64>(top_k), shared);
    }
    if (top_p < 1.0) {
      u64 all = 0;
      for (int id = static_cast<int>(threadIdx.x); id < classes; id += threads)
        if (kept.holds(key_of(row.logit(id)), id)) all += mass_of(id);
      all = block_sum(all, shared);
      const double wanted = ceil(top_p * static_cast<double>(all));
      kept = keep_best(row, kept, mass_of, wanted < 1.0 ? 1 : static_cast<u64>(wanted) < all ? static_cast<u64>(wanted) : all, shared);
    }
    const auto weight = [&](int id) -> u64 {
      if (!kept.holds(key_of(row.logit(id)), id)) return 0;
      const double relative = row.relative(id);
      return relative < min_p ? 0 : Row<S>::mass(relative);
    };
    u64 all = 0;
    for (int id = static_cast<int>(threadIdx.x); id < classes; id += threads) all += weight(id);
    all = block_sum(all, shared);
    u64 target = static_cast<u64>(static_cast<double>(u[blockIdx.x]) * static_cast<double>(all));
    if (target >= all) target = all - 1;
    chosen = find_in_order(classes, weight, target, shared);
  }
  if (threadIdx.x == 0) {
    token[blockIdx.x] = chosen;
    log_probability[blockIdx.x] = row.scaled(chosen) - row.top - logf(total);
  }
}

}  // namespace

template <>
std::size_t scratch_bytes(const SampleToken&) {
  return 0;
}

template <>
void run(const SampleToken& args, Stream stream) {
  require_f32("sample_token", {&args.u, &args.log_probability});
  const DType dtype = require_activations("sample_token", {&args.logits});
  require("sample_token", DType::i32, {&args.token});
  const std::int64_t rows = args.logits.rows(), classes = args.logits.width();
  if (classes < 1 || classes > (std::int64_t{1} << 23))
    throw ShapeError("cuda: sample_token from " + std::to_string(classes) + " classes", "1 to 2^23 classes");
  if (!(args.temperature >= 0) || !(args.top_p > 0) || args.top_k < 0 || !(args.min_p >= 0 && args.min_p <= 1))
    throw ShapeError("cuda: sample_token: temperature, top_k, top_p or min_p out of range",
                     "temperature >= 0, top_k >= 0, 0 < top_p <= 1, 0 <= min_p <= 1");
  if (rows == 0) return;
  const bool greedy = args.temperature == 0;
  dispatch_activation(dtype, [&](auto storage) {
    sample_kernel<<<blocks_for(rows, 1), threads, 0, native(stream)>>>(
        static_cast<int>(classes), greedy ? 1.0f : static_cast<float>(1.0 / args.temperature), greedy, args.top_p, args.min_p,
        static_cast<int>(args.top_k < classes ? args.top_k : 0), args.logits.as<const decltype(storage)>(), args.u.as<float>(),
        args.token.as<std::int32_t>(), args.log_probability.as<float>());
  });
  check_launch("sample_token");
}

}  // namespace expctr::cuda
