// Every op at a realistic size on one device: compared with a second way to compute it, then timed against its lower bound. What
// `expctr_engine doctor` prints, so that whoever has a device gets a verdict in a minute.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/tensor.h"

namespace expctr {

/// Where an op runs, and how its activations are stored: f32, f64 (CPU) or bf16. Parameters and statistics are f32 (f64 beside f64).
struct OpPlace {
  Device device;
  DType dtype = DType::f32;
  double scale = 1.0;  ///< of the leading extents: 1 is the size to be timed, less is for a device that is slow or simulated
};

/// What one pass needs at least: bytes that must move, and floating-point operations.
struct OpWork {
  double bytes = 0, flops = 0;
};

/// An op on operands that are in place. Running it again gives the same values but for ops that update in place.
struct OpAtSize {
  std::string shape;
  OpWork forward, backward;
  std::vector<Tensor> operands;  ///< those that require a gradient are compared after a backward pass
  std::function<Tensor(std::span<const Tensor>)> run;
};

struct OpEntry {
  std::string op;  ///< its name in engine/ops/ops.def
  std::function<OpAtSize(const OpPlace&)> prepare;
  bool float64 = true;  ///< the CPU has it in f64; otherwise CPU f32 is what a device is compared with
  bool bf16 = true;     ///< activations may be stored in bf16
};

/// All ops, in the order of engine/ops/ops.def.
std::vector<OpEntry> op_table();

/// What a device can do, measured here and now.
struct DeviceCeilings {
  double bytes_per_second = 0, f32_flops = 0, bf16_flops = 0;
};
DeviceCeilings measure_device_ceilings(Device device);

struct OpVerdict {
  std::string op, shape, dtype;
  double error = 0, tolerance = 0;  ///< largest difference of outputs and gradients, relative to the largest reference value
  double seconds = 0, bound = 0;    ///< forward: measured, and max(bytes / bandwidth, FLOPs / peak)
  double backward_seconds = 0, backward_bound = 0;  ///< 0 where there is no gradient
  std::string problem;                              ///< empty: right
  bool timed = false;
};

/// Runs one op: compares, then times where the comparison held and `timed` is asked for. An exception becomes the verdict's problem.
OpVerdict examine_op(const OpEntry& entry, const OpPlace& place, const DeviceCeilings& ceilings, bool timed);

}  // namespace expctr
