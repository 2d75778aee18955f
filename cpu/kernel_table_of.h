// Fills a KernelTable from the templates; included by one file an instruction set.
#pragma once

#include "cpu/attention_backward_kernel.h"
#include "cpu/attention_kernel.h"
#include "cpu/gemm_kernel.h"
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

template <class V>
constexpr KernelTable kernel_table_of() {
  return {V::tile_rows,    V::fused_rows,  gemm_panel<V>,     quantised_rows<V>,     transpose<V>, unpack_panel<V>,
          softmax_part<V>, softmax_row<V>, attention_rows<V>, attention_gradient<V>, exp_array<V>, softmax_tile<V>};
}

}  // namespace expctr::cpu
