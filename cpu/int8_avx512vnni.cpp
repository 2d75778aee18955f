// Integer products by AVX512_VNNI.
// g++ 12 reports the undefined operands inside its own AVX-512 intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

#include "cpu/int8_kernel.h"
#include "cpu/kernel_table.h"
#include "cpu/simd_bytes.h"

namespace expctr::cpu {

void add_vnni_kernels(KernelTable& table) {
  table.int8_rows = avx512vnni::Bytes::int8_rows;
  table.int8_panel = int8_panel<avx512vnni::Bytes>;
}

}  // namespace expctr::cpu
