// g++ 12 reports the undefined operands inside its own AVX-512 intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

#include "cpu/kernel_table_of.h"
#include "cpu/simd_avx512.h"
#include "cpu/simd_bytes.h"

namespace expctr::cpu {

constexpr KernelTable table = kernel_table_of<avx512::Floats, avx512::Bytes>();
const KernelTable kernels_avx512 = table;

}  // namespace expctr::cpu
