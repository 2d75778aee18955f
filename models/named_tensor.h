// Named parameters of models; the struct stands in the engine, where the optimiser uses it too.
#pragma once

#include "engine/nn/named_tensor.h"
