// Sends kernel arguments to the backend of a device, with scratch memory where the kernel wants some.
#pragma once

#include "cpu/run.h"
#include "cuda/run.h"
#include "engine/core/build_info.h"
#include "engine/core/float_copies.h"
#include "engine/core/tensor.h"

namespace expctr {

template <class Args>
concept HasScratch = requires(Args args) { args.scratch; };

/// Runs the kernel of `args` on the device's stream. On the CPU, bf16 operands that the kernel does not take itself are computed as floats.
template <class Args>
void run(Device device, Args args) {
  FloatCopies copies;
  if (!device.is_cuda()) {
    for_each_view(args, [&](View& view) {
      if (view.dtype == DType::bf16 && !view.empty() && !takes_bf16(args, view)) view = copies.copy(view);
    });
  }
  Tensor scratch;
  if constexpr (HasScratch<Args>) {
    std::size_t bytes = 0;
    if (!device.is_cuda()) {
      bytes = cpu::scratch_bytes(args);
    } else if constexpr (has_cuda) {
      bytes = cuda::scratch_bytes(args);
    }
    if (bytes != 0) {
      scratch = Tensor::empty({static_cast<std::int64_t>(bytes)}, DType::u8, device);
      args.scratch = scratch.view();
    }
  }
  if (!device.is_cuda()) {
    cpu::run(static_cast<const Args&>(args), Stream{});
    copies.write_back();
  } else if constexpr (has_cuda) {
    cuda::run(static_cast<const Args&>(args), current_stream(device));
  }
}

}  // namespace expctr
