// Named parameters: what optimisers, checkpoints and hashes work on.
#pragma once

#include <string>

#include "engine/core/tensor.h"

namespace expctr {

struct NamedTensor {
  std::string name;
  Tensor tensor;
};

}  // namespace expctr
