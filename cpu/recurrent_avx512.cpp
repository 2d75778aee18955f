// g++ 12 reports the undefined operands inside its own AVX-512 intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

#include "cpu/recurrent_cell_kernel.h"
#include "cpu/simd_avx512.h"

namespace expctr::cpu {

const CellSteps<float> cell_steps_avx512[3] = {cell_steps<avx512::Floats, float>(0), cell_steps<avx512::Floats, float>(1),
                                               cell_steps<avx512::Floats, float>(2)};

}  // namespace expctr::cpu
