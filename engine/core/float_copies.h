// bf16 operands of CPU kernels, which compute on floats: read into float copies before the kernel, written back after it.
#pragma once

#include <cstdint>
#include <vector>

#include "base/kernels/elementwise.h"
#include "base/kernels/embedding.h"
#include "base/kernels/layout.h"
#include "base/kernels/linear.h"
#include "base/reflect.h"
#include "engine/core/tensor.h"

namespace expctr {

/// Whether the CPU kernel of these arguments takes this bf16 operand as it is. A kernel that does has an overload beside its arguments.
template <class Args>
bool takes_bf16(const Args&, const View&) {
  return false;
}
inline bool takes_bf16(const Convert&, const View&) { return true; }
inline bool takes_bf16(const CopyStrided&, const View&) { return true; }
inline bool takes_bf16(const PackWeight&, const View&) { return true; }
inline bool takes_bf16(const Gather& args, const View& view) { return &view == &args.table; }

/// Float copies of bf16 memory. Two views of the same memory share a copy; views that overlap otherwise are not supported.
class FloatCopies {
 public:
  /// The view of the float copy, filled with the values of a dense bf16 view.
  View copy(const View& view);
  /// Rounds what the kernel has written; memory whose values did not change is not touched, so operands that are only read may be read-only.
  void write_back() const;

 private:
  struct Copy {
    View original;
    Tensor values;
  };
  std::vector<Copy> copies_;
};

}  // namespace expctr
