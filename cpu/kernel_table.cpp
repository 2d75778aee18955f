// The wider instruction sets are the AVX-512 table with a kernel or two replaced.
#include "cpu/kernel_table.h"

namespace expctr::cpu {

void add_vnni_kernels(KernelTable& table);  // cpu/int8_avx512vnni.cpp
void add_bf16_kernels(KernelTable& table);  // cpu/bf16_avx512bf16.cpp

const KernelTable& kernels() {
  static const KernelTable vnni = [] {
    KernelTable table = kernels_avx512;
    add_vnni_kernels(table);
    return table;
  }();
  static const KernelTable bf16 = [] {
    KernelTable table = vnni;
    add_bf16_kernels(table);
    return table;
  }();
  switch (active_isa()) {
    case Isa::avx512:
      return kernels_avx512;
    case Isa::avx512vnni:
      return vnni;
    case Isa::avx512bf16:
      return bf16;
    default:
      return kernels_v3;
  }
}

}  // namespace expctr::cpu
