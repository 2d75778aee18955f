// What the headers of cuda/attention_mma.cu, cuda/attention_mma_backward.cu and cuda/attention_decode.cu derive, counted: FLOPs of tensor
// cores at 1,024 tokens, requested bytes, bank conflicts.
#include "base/kernels/attention.h"

#include "tests/cuda/device_tensor.h"
#include "tests/support/launch_profile.h"
#include "tests/support/paths.h"

using namespace expctr;
using namespace expctr::test;

namespace {

constexpr std::int64_t tokens = 1024, tiles = tokens / 64;

/// Numbers below 2 as bf16: every bit pattern up to that of 2 is one.
DeviceTensor random_bf16(const Shape& shape, std::uint32_t seed) {
  std::vector<std::uint16_t> halves;
  for (const std::int32_t bits : random_ids(elements(shape), seed, 0x3C00, 0x4000)) halves.push_back(static_cast<std::uint16_t>(bits));
  return DeviceTensor(DType::bf16, shape, halves.data());
}

/// Offsets, statistics and masks that a thread reads beside the tiles: at most 16 words.
std::uint64_t bookkeeping(const KernelLaunch& kernel) { return static_cast<std::uint64_t>(kernel.blocks * kernel.threads) * 64; }

void check_kernel(const KernelLaunch& kernel, double tensor_flops, std::int64_t bytes) {
  CAPTURE(kernel.kernel);
  CHECK(static_cast<double>(kernel.tensor_flops) <= 1.15 * tensor_flops);
  CHECK(static_cast<double>(kernel.tensor_flops) >= tensor_flops);  // nothing is left out
  CHECK(kernel.requested_bytes() <= static_cast<std::uint64_t>(bytes) + bookkeeping(kernel));
  CHECK(kernel.requested_bytes() >= static_cast<std::uint64_t>(bytes));
  CHECK(kernel.bank_conflict_share() < 0.05);
  CHECK(kernel.sector_efficiency() > 0.9);
  CHECK(kernel.atomics == 0);
}

}  // namespace

TEST_CASE("attention on tensor cores at 1,024 tokens: FLOPs, bytes and bank conflicts as derived") {
  struct Case {
    int capability, head_dim;
    bool causal;
  };
  for (const Case& c : {Case{80, 64, true}, Case{90, 64, true}, Case{90, 64, false}, Case{80, 96, true}, Case{90, 128, true}}) {
    CAPTURE(c.capability);
    CAPTURE(c.head_dim);
    CAPTURE(c.causal);
    const std::int64_t heads = 2, dim = c.head_dim;
    const AttentionShape shape{2, 1, c.head_dim, c.causal, 0.1};
    const LaunchProfile profile = profile_launches(
        c.capability,
        [&] {
          const DeviceTensor q = random_bf16({tokens, heads * dim}, 1), k = random_bf16({tokens, dim}, 2),
                             v = random_bf16({tokens, dim}, 3), dy = random_bf16({tokens, heads * dim}, 4),
                             dq = random_bf16({tokens, heads * dim}, 5), dk = random_bf16({tokens, dim}, 6),
                             dv = random_bf16({tokens, dim}, 7), offsets(std::vector<std::int32_t>{0, tokens}, {2}),
                             y = DeviceTensor::output({tokens, heads * dim}, DType::bf16), log_sum = DeviceTensor::output({tokens, heads});
          launch(AttentionForward{shape, q, k, v, offsets, y, log_sum});
          launch(AttentionBackward{shape, q, k, v, offsets, y, log_sum, dy, dq, dk, dv, {}});
        },
        {.checks = "none"});
    if (!profile.here) return skip_test(no_launch_profile);
    const double square = static_cast<double>(heads * tokens * tokens * dim) * (c.causal ? 0.5 : 1.0);
    const std::int64_t pairs = c.causal ? tiles * (tiles + 1) / 2 : tiles * tiles, own = heads * tokens * dim * 2,
                       other = heads * pairs * 64 * dim * 2;
    // q and y, log_sum_exp; keys and values a query tile.
    check_kernel(profile.only("mma_forward_kernel"), 4 * square, 2 * own + heads * tokens * 4 + 2 * other);
    // q and dy, dq read and written; keys and values a query tile.
    check_kernel(profile.only("mma_query_gradient_kernel"), 6 * square, 4 * own + 2 * other);
    // Keys and values and their gradients read and written; q, dy and two statistics a key tile.
    check_kernel(profile.only("mma_key_gradient_kernel"), 8 * square, tokens * dim * 2 * 6 + 2 * other + heads * pairs * 64 * 8);
    const KernelLaunch statistics = profile.only("statistics_kernel");
    CHECK(statistics.requested_bytes() <= static_cast<std::uint64_t>(2 * own + heads * tokens * 12) * 1.15);
    CHECK(statistics.bank_conflict_share() < 0.05);
  }
}

TEST_CASE("attention in float32: every tile once, without bank conflicts") {
  for (const int dim : {64, 128}) {
    CAPTURE(dim);
    const std::int64_t length = 256, heads = 2, blocks = length / attention_block, pairs = blocks * (blocks + 1) / 2;
    const AttentionShape shape{2, 1, dim, true, 0.1};
    const LaunchProfile profile = profile_launches(dim == 64 ? 80 : 90, [&] {
      const auto random = [&](std::int64_t width, std::uint32_t seed) {
        return DeviceTensor(random_floats(length * width, seed), {length, width});
      };
      const DeviceTensor q = random(heads * dim, 1), k = random(dim, 2), v = random(dim, 3), dy = random(heads * dim, 4),
                         dq = random(heads * dim, 5), dk = random(dim, 6), dv = random(dim, 7),
                         offsets(std::vector<std::int32_t>{0, static_cast<std::int32_t>(length)}, {2}),
                         y = DeviceTensor::output({length, heads * dim}), log_sum = DeviceTensor::output({length, heads});
      launch(AttentionForward{shape, q, k, v, offsets, y, log_sum});
      launch(AttentionBackward{shape, q, k, v, offsets, y, log_sum, dy, dq, dk, dv, {}});
    });
    if (!profile.here) return skip_test(no_launch_profile);
    const std::int64_t own = heads * length * dim * 4, other = heads * pairs * attention_block * dim * 4;
    // Statistics are read by every lane that needs them: 16 words a thread for its 8 queries, or two by each of the 4 warps for a query.
    const auto check = [&](const char* name, std::int64_t bytes, std::int64_t statistics) {
      const KernelLaunch kernel = profile.only(name);
      CAPTURE(kernel.kernel);
      CHECK(kernel.requested_bytes() >= static_cast<std::uint64_t>(bytes));
      CHECK(kernel.requested_bytes() <= static_cast<std::uint64_t>(bytes + statistics) + bookkeeping(kernel));
      CHECK(kernel.bank_conflict_share() < 0.05);
      CHECK(kernel.sector_efficiency() > 0.9);
    };
    check("::forward_kernel", 2 * own + heads * length * 4 + 2 * other, 0);
    check("::query_gradient_kernel", 4 * own + 2 * other, heads * blocks * 128 * 64);
    check("::key_gradient_kernel", length * dim * 4 * 6 + 2 * other, heads * pairs * attention_block * 8 * 4);
  }
}

TEST_CASE("decoding reads each cached key and value once") {
  for (const DType dtype : {DType::bf16, DType::f32}) {
    CAPTURE(std::string(dtype_name(dtype)));
    const std::int64_t sequences = 3, context = 700, most_pages = 32, pages = sequences * most_pages, kv_heads = 2, heads = 6, dim = 64;
    const AttentionShape shape{static_cast<int>(heads), static_cast<int>(kv_heads), static_cast<int>(dim), true, 0.125};
    const LaunchProfile profile = profile_launches(dtype == DType::bf16 ? 80 : 90, [&] {
      std::vector<std::int32_t> table;
      for (std::int64_t i = 0; i < pages; ++i) table.push_back(static_cast<std::int32_t>((i * 29) % pages));
      const auto random = [&](const Shape& values, std::uint32_t seed) {
        return dtype == DType::bf16 ? random_bf16(values, seed) : DeviceTensor(random_floats(elements(values), seed), values);
      };
      const DeviceTensor q = random({sequences, heads * dim}, 1), keys = random({pages, attention_block, kv_heads * dim}, 2),
                         values = random({pages, attention_block, kv_heads * dim}, 3), offsets(std::vector<std::int32_t>{0, 1, 2, 3}, {4}),
                         contexts(std::vector<std::int32_t>(3, static_cast<std::int32_t>(context)), {3}),
                         tt(table, {sequences, most_pages}), y = DeviceTensor::output({sequences, heads * dim}, dtype);
      launch(PagedAttention{shape, q, offsets, contexts, tt, keys, values, y});
    });
    if (!profile.here) return skip_test(no_launch_profile);
    const KernelLaunch kernel = profile.only("decode_kernel");
    const std::int64_t cache = sequences * context * kv_heads * dim * 2 * static_cast<std::int64_t>(dtype_bytes(dtype, 1));
    const std::int64_t parts = sequences * heads * 3 * (dim + 2) * 4;  // 700 keys are three parts
    CHECK(kernel.load_bytes >= static_cast<std::uint64_t>(cache));
    CHECK(kernel.load_bytes <= static_cast<std::uint64_t>(cache + sequences * heads * 4 * 3 * dim * 2) + bookkeeping(kernel));
    CHECK(kernel.store_bytes == static_cast<std::uint64_t>(parts));
    CHECK(kernel.sector_efficiency() > 0.9);
    CHECK(kernel.bank_conflict_share() < 0.05);
    CHECK(profile.only("merge_kernel").load_bytes >= static_cast<std::uint64_t>(parts));
  }
}
