#include "cpu/recurrent_cell_kernel.h"
#include "cpu/simd_v3.h"

namespace expctr::cpu {

const CellSteps<float> cell_steps_v3[3] = {cell_steps<v3::Floats, float>(0), cell_steps<v3::Floats, float>(1),
                                           cell_steps<v3::Floats, float>(2)};

}  // namespace expctr::cpu
