#include "engine/core/float_copies.h"

#include "base/blocks.h"
#include "cpu/run.h"
#include "cpu/thread_pool.h"

namespace expctr {

View FloatCopies::copy(const View& view) {
  const std::int64_t n = view.size();
  const Copy* known = nullptr;
  for (const Copy& copy : copies_)
    if (copy.original.data == view.data && copy.original.size() == n) known = &copy;
  if (known == nullptr) {
    copies_.push_back({view, Tensor::empty({n})});
    known = &copies_.back();
    View flat = known->values.view(), source = view;
    source.rank = flat.rank;
    source.shape[0] = n;
    source.stride[0] = 1;
    cpu::run(Convert{source, flat}, Stream{});
  }
  View result = view;
  result.data = known->values.data();
  result.dtype = DType::f32;
  return result;
}

void FloatCopies::write_back() const {
  for (const Copy& copy : copies_) {
    auto* stored = copy.original.as<std::uint16_t>();
    const auto* values = static_cast<const float*>(copy.values.data());
    cpu::parallel_for(copy.values.size(), 16384, [stored, values](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        if (bits_of_float(values[i]) != bits_of_float(float_of_bf16(stored[i]))) stored[i] = bf16_of_float(values[i]);
    });
  }
}

}  // namespace expctr
