// Panels of 32 outputs of a packed frozen weight, and what turns them into float32 on the way to the multiply-add units.
// Plain types: [inputs][32]. Blocks of 32 inputs: q8_0 {f16 d[32]; i8 code[32 inputs][32]}; q4_1 {f16 d[32], m[32]; u32 codes[4][32]},
// where bits 4 i to 4 i + 3 of codes[g][n] are the code of input 8 g + i of output n. A packed block is exactly as large as the 32 file
// blocks it came from. Value = d code, rounded, + m, rounded: as base/blocks.h.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "cpu/gemm_kernel.h"

namespace expctr::cpu {

struct PackedQ8_0 {
  std::uint16_t d[32];
  std::int8_t codes[32][32];
};
struct PackedQ4_1 {
  std::uint16_t d[32], m[32];
  std::uint32_t codes[4][32];
};
static_assert(sizeof(PackedQ8_0) == 32 * 34 && sizeof(PackedQ4_1) == 32 * 20);

/// Calls use(k, V of outputs 16 v .. 16 v + 15) for k = 0 .. 31 of one block.
template <class V, class Use>
inline void for_each_input(const PackedQ8_0& block, int v, const Use& use) {
  const V d = V::load_f16(block.d + 16 * v);
  for (int k = 0; k < 32; ++k) use(k, V::load_i8(block.codes[k] + 16 * v) * d);
}

template <class V, int i, class Use>
inline void for_each_nibble(decltype(V::load_lanes(nullptr)) codes, V d, V m, int k, const Use& use) {
  if constexpr (i < 8) {
    use(k + i, V::template nibble<i>(codes) * d + m);
    for_each_nibble<V, i + 1>(codes, d, m, k, use);
  }
}

template <class V, class Use>
inline void for_each_input(const PackedQ4_1& block, int v, const Use& use) {
  const V d = V::load_f16(block.d + 16 * v), m = V::load_f16(block.m + 16 * v);
  for (int g = 0; g < 4; ++g) for_each_nibble<V, 0>(V::load_lanes(block.codes[g] + 16 * v), d, m, 8 * g, use);
}

/// Inputs [k0, k1) of a panel as float [k1 - k0][32]; multiples of 32 for block formats.
template <class V>
void unpack_panel(DType dtype, const void* panel, std::int64_t k0, std::int64_t k1, float* out) {
  const auto blocks = [&](const auto* block) {
    for (std::int64_t k = k0; k < k1; k += 32) {
      for (int v = 0; v < 2; ++v)
        for_each_input<V>(block[k / 32], v, [&](int i, V value) { value.store(out + (k - k0 + i) * panel_width + 16 * v); });
    }
  };
  const auto halves = [&](auto load) {
    const std::uint16_t* source = static_cast<const std::uint16_t*>(panel) + k0 * panel_width;
    for (std::int64_t i = 0; i < (k1 - k0) * panel_width; i += 16) load(source + i).store(out + i);
  };
  switch (dtype) {
    case DType::q4_1:
      return blocks(static_cast<const PackedQ4_1*>(panel));
    case DType::q8_0:
      return blocks(static_cast<const PackedQ8_0*>(panel));
    case DType::bf16:
      return halves([](const std::uint16_t* p) { return V::load_bf16(p); });
    case DType::f16:
      return halves([](const std::uint16_t* p) { return V::load_f16(p); });
    default: {
      const float* source = static_cast<const float*>(panel) + k0 * panel_width;
      for (std::int64_t i = 0; i < (k1 - k0) * panel_width; i += 16) V::load(source + i).store(out + i);
    }
  }
}

}  // namespace expctr::cpu
