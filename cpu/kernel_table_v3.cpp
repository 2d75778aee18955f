#include "cpu/kernel_table_of.h"
#include "cpu/simd_v3.h"

namespace expctr::cpu {

constexpr KernelTable table = kernel_table_of<v3::Floats, v3::Bytes>();
const KernelTable kernels_v3 = table;

}  // namespace expctr::cpu
