// Fills a KernelTable from the templates; included by one file an instruction set.
#pragma once

#include "cpu/attention_backward_kernel.h"
#include "cpu/attention_kernel.h"
#include "cpu/bf16_kernel.h"
#include "cpu/gemm_kernel.h"
#include "cpu/int8_kernel.h"
#include "cpu/kernel_table.h"
#include "cpu/softmax_kernel.h"
#include "cpu/weight_kernel.h"

namespace expctr::cpu {

template <class V>
void exp_array(const float* x, std::int64_t n, float* y) {
  for (std::int64_t i = 0; i < n; i += 16) {
    const int count = static_cast<int>(n - i < 16 ? n - i : 16);
    exp(V::load(x + i, count)).store(y + i, count);
  }
}

/// V: 16 floats, B: 16 sums of byte products.
template <class V, class B>
constexpr KernelTable kernel_table_of() {
  KernelTable table{};
  table.tile_rows = V::tile_rows;
  table.fused_rows = FloatProduct<V>::fused_rows;
  table.bf16_fused_rows = RoundedProduct<V>::fused_rows;
  table.direct_rows = V::direct_rows;
  table.int8_rows = B::int8_rows;
  table.gemm_panel = gemm_panel<V>;
  table.direct_panel = direct_panel<V>;
  table.int8_panel = int8_panel<B>;
  table.quantised_rows = quantised_rows<V, FloatProduct<V>>;
  table.quantised_bf16_rows = quantised_rows<V, RoundedProduct<V>>;
  table.transpose = transpose<V>;
  table.unpack_panel = unpack_panel<V>;
  table.unpack_pairs = unpack_pairs<V>;
  table.unpack_int8 = unpack_int8<B>;
  table.int8_pack = int8_pack<V>;
  table.bf16_pairs = bf16_pairs<V>;
  table.bf16_row = bf16_row<V>;
  table.bf16_round = bf16_round<V>;
  table.softmax_part = softmax_part<V>;
  table.softmax_row = softmax_row<V>;
  table.softmax_tile = softmax_tile<V>;
  table.attention_rows = attention_rows<V>;
  table.attention_gradient = attention_gradient<V>;
  table.exp_array = exp_array<V>;
  return table;
}

}  // namespace expctr::cpu
