// bf16 storage on the CPU: kernels compute on float copies.
#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>

#include "base/blocks.h"
#include "base/kernels/attention.h"
#include "base/kernels/norm.h"
#include "base/reflect.h"
#include "engine/autograd/tape.h"
#include "engine/core/run.h"
#include "engine/ops/elementwise.h"

using namespace expctr;

namespace {

struct Mixed {
  double number = 0;
  AttentionShape shape = {};
  View a, b;
  const View* many = nullptr;
  Unary kind = Unary::relu;
  View c;
};
struct One {
  View only;
};

std::vector<float> bf16_values(const Tensor& x) { return convert(x, DType::f32).to_vector<float>(); }
float rounded(double x) { return float_of_bf16(bf16_of_float(static_cast<float>(x))); }

}  // namespace

TEST_CASE("the views of an argument struct are found in order, whatever stands between them") {
  static_assert(reflect::member_count<Mixed>() == 7);
  static_assert(reflect::member_count<One>() == 1);
  static_assert(reflect::member_count<LayerNormBackward>() == 9);
  Mixed args;
  std::vector<const View*> seen;
  for_each_view(args, [&](View& view) { seen.push_back(&view); });
  CHECK(seen == std::vector<const View*>{&args.a, &args.b, &args.c});
  const One one;
  int count = 0;
  for_each_view(one, [&](const View& view) { count += &view == &one.only; });
  CHECK(count == 1);
}

TEST_CASE("a CPU kernel takes bf16 operands: computed in float, rounded once") {
  const Tensor x = convert(Tensor::of(std::vector<float>{-2.0f, -0.3f, 0.0f, 0.7f, 3.0f}, {5}), DType::bf16);
  const std::vector<float> in = bf16_values(x), out = bf16_values(sigmoid(x));
  for (std::size_t i = 0; i < in.size(); ++i) CHECK(out[i] == rounded(1.0 / (1.0 + std::exp(-static_cast<double>(in[i])))));
}

TEST_CASE("accumulation reads what was there, and rounds the sum") {
  const Tensor x = convert(Tensor::of(std::vector<float>{1.0f, 1.5f}, {2}), DType::bf16),
               y = convert(Tensor::of(std::vector<float>{256.0f, -3.0f}, {2}), DType::bf16);
  axpy(0.5, x, y);
  CHECK(bf16_values(y) == std::vector<float>{256.0f, -2.25f});  // 256.5 lies between 256 and 258
}

TEST_CASE("operands that are one memory stay one") {
  const Tensor x = convert(Tensor::of(std::vector<float>{1.0f, 2.0f}, {2}), DType::bf16);
  run(cpu_device, Affine{2.0, 1.0, x, x});
  CHECK(bf16_values(x) == std::vector<float>{3.0f, 5.0f});
}

TEST_CASE("an operand that is only read may be read-only memory, NaN with any payload included") {
  const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  void* memory = mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  auto* bits = static_cast<std::uint16_t*>(memory);
  bits[0] = bf16_of_float(1.0f);
  bits[1] = 0x7F81;  // a signalling NaN
  REQUIRE(mprotect(memory, page, PROT_READ) == 0);
  View x;
  x.data = memory;
  x.dtype = DType::bf16;
  x.rank = 1;
  x.shape[0] = 2;
  const Tensor y = Tensor::empty({2}, DType::bf16);
  run(cpu_device, Affine{2.0, 0.0, x, y});
  CHECK(bf16_values(y)[0] == 2.0f);
  CHECK(std::isnan(bf16_values(y)[1]));
  munmap(memory, page);
}

TEST_CASE("the gradient of a bf16 tensor is bf16 and adds up") {
  Tensor x = convert(Tensor::of(std::vector<float>{1.0f, -2.0f}, {2}), DType::bf16);
  x.require_gradient();
  for (int pass = 0; pass < 2; ++pass) {
    Tape tape;
    const Tensor y = affine(x, 3.0), dy = convert(Tensor::of(std::vector<float>{1.0f, 0.5f}, {2}), DType::bf16);
    CHECK(y.dtype() == DType::bf16);
    tape.backward(std::span(&y, 1), std::span(&dy, 1));
  }
  CHECK(x.gradient().dtype() == DType::bf16);
  CHECK(bf16_values(x.gradient()) == std::vector<float>{6.0f, 3.0f});
}
