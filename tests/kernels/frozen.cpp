#include "frozen.h"

#include <doctest/doctest.h>

namespace expctr::test {

HeadResult run_head(const Frozen& weight, const Array<float>& x, const Array<std::int32_t>& targets, const Array<float>& gradient,
                    std::int64_t first, std::int64_t rows, double temperature) {
  const std::int64_t inputs = weight.packed.inputs;
  HeadResult result{Array<float>({rows}), Array<float>({rows}), Array<float>({rows}), Array<float>({rows, inputs})};
  result.dx.random(77);
  const auto part = [&](View view, std::int64_t width, std::size_t size) {
    view.data = static_cast<char*>(view.data) + first * width * static_cast<std::int64_t>(size);
    view.shape[0] = rows;
    return view;
  };
  const View x_part = part(x.view(), inputs, 4), target_part = part(targets.view(), 1, 4);
  LinearCrossEntropyForward forward{
      weight.packed,         temperature, x_part, target_part, result.log_probability.view(), result.log_sum_exp.view(),
      result.entropy.view(), View{}};
  auto scratch = scratch_for(cpu::scratch_bytes(forward));
  forward.scratch = scratch.view();
  cpu::run(forward, Stream{});
  LinearCrossEntropyBackward backward{
      weight.packed, temperature, x_part, target_part, result.log_sum_exp.view(), part(gradient.view(), 1, 4), result.dx.view(), View{}};
  auto more = scratch_for(cpu::scratch_bytes(backward));
  backward.scratch = more.view();
  cpu::run(backward, Stream{});
  CHECK(scratch.intact());
  CHECK(more.intact());
  CHECK(result.dx.intact());
  CHECK(result.entropy.intact());
  return result;
}

}  // namespace expctr::test
