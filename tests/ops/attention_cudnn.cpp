// cuDNN's attention against our own bf16 kernels, in builds that hold it.
#include <doctest/doctest.h>

#include <cmath>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/core/cudnn.h"
#include "engine/ops/attention_library.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/reduce.h"
#include "tests/ops/op_cases.h"
#include "tests/support/oracle.h"
#include "tests/support/paths.h"

namespace expctr::test {
namespace {

constexpr Device device{DeviceType::cuda, 0};

struct Problem {
  std::vector<std::int32_t> offsets;
  AttentionShape shape;
  DType dtype = DType::bf16;
  bool key_lengths = false;
};

Tensor make(const Problem& p, int heads, std::uint64_t seed) {
  const Shape shape{p.offsets.back(), std::int64_t{heads} * p.shape.head_dim};
  return convert(tensor_of(uniform(shape, -1, 1, seed).values, shape, DType::f32, device), p.dtype);
}
std::vector<double> values_of(const Tensor& tensor) { return doubles(convert(tensor.detached(), DType::f32)); }

/// Chooses cuDNN for one block.
class ThroughCudnn {
 public:
  ThroughCudnn() { set_attention_library(AttentionLibrary::cudnn); }
  ~ThroughCudnn() { set_attention_library(AttentionLibrary::own); }
  ThroughCudnn(const ThroughCudnn&) = delete;
  ThroughCudnn& operator=(const ThroughCudnn&) = delete;
};

/// y, dq, dk, dv, and y without a tape. The op runs twice on the same operands, so that gradients are added to what is there; the sums of
/// the second call have other weights.
std::vector<std::vector<double>> run_attention(const Problem& p) {
  Tensor q = make(p, p.shape.heads, 1), k = make(p, p.shape.kv_heads, 2), v = make(p, p.shape.kv_heads, 3);
  for (Tensor* tensor : {&q, &k, &v}) tensor->require_gradient();
  const Tensor offsets = Tensor::of(p.offsets, {static_cast<std::int64_t>(p.offsets.size())}, device);
  AttentionKeyTensors keys;
  if (p.key_lengths) {
    std::vector<std::int32_t> lengths(p.offsets.size() - 1, 2);
    keys.lengths = Tensor::of(lengths, {static_cast<std::int64_t>(lengths.size())}, device);
  }
  std::vector<std::vector<double>> results;
  {
    Tape tape;
    const Tensor y = attention(q, k, v, offsets, p.shape, keys), again = attention(q, k, v, offsets, p.shape, keys);
    results.push_back(values_of(y));
    tape.backward(add(sum_all(convert(multiply(y, make(p, p.shape.heads, 4)), DType::f32)),
                      sum_all(convert(multiply(again, make(p, p.shape.heads, 5)), DType::f32))));
  }
  for (const Tensor& tensor : {q, k, v}) results.push_back(values_of(tensor.gradient()));
  const NoGradient off;
  results.push_back(values_of(attention(q, k, v, offsets, p.shape, keys)));
  return results;
}

}  // namespace

TEST_CASE("attention through cuDNN gives what our own kernels give") {
  if constexpr (!has_cudnn_attention) {
    CHECK_THROWS_WITH_AS(set_attention_library(AttentionLibrary::cudnn), doctest::Contains("-DCUDNN_FRONTEND="), UsageError);
    CHECK(attention_library() == AttentionLibrary::own);
    return skip_test("attention through cuDNN: not in this build");
  }
  const std::vector<Problem> problems = {{{0, 24, 48}, {2, 2, 16, true, 0.25}},
                                         {{0, 33, 66, 99}, {4, 2, 32, false, 0.2}},
                                         {{0, 70}, {3, 1, 64, true, 0.125}},
                                         {{0, 3, 6, 9}, {2, 1, 8, true, 0.4}},
                                         {{0, 40}, {1, 1, 128, false, 0.09}}};
  for (const Problem& p : problems) {
    CAPTURE(p.shape.head_dim);
    const auto own = run_attention(p);
    const std::int64_t before = attention_library_calls();
    std::vector<std::vector<double>> cudnn;
    {
      const ThroughCudnn chosen;
      cudnn = run_attention(p);
      CHECK(run_attention(p) == cudnn);
    }
    CHECK(attention_library_calls() == before + 6);
    REQUIRE(own.size() == cudnn.size());
    for (std::size_t i = 0; i < own.size(); ++i) {
      CAPTURE(i);
      REQUIRE(own[i].size() == cudnn[i].size());
      double largest = 0, worst = 0;
      for (const double v : own[i]) largest = std::max(largest, std::abs(v));
      for (std::size_t j = 0; j < own[i].size(); ++j) worst = std::max(worst, std::abs(own[i][j] - cudnn[i][j]));
      // Half a unit (2^-9) for each: probabilities and the result of either side; gradients also of the scores', and of each of two
      // additions.
      const double roundings = i == 0 || i == 4 ? 2 * 2 : 2 * 5;
      CHECK(worst <= roundings * 0x1p-9 * largest);
      CHECK(largest > 0);
    }
  }
}

TEST_CASE("attention that cuDNN does not take stays with our own kernels") {
  if constexpr (!has_cudnn_attention) return skip_test("attention through cuDNN: not in this build");
  const std::vector<Problem> problems = {{{0, 5, 24}, {2, 1, 16, true, 0.25}},
                                         {{0, 12, 24}, {2, 1, 16, true, 0.25, 3}},
                                         {{0, 12, 24}, {2, 1, 16, false, 0.25}, DType::bf16, true},
                                         {{0, 12, 24}, {2, 1, 10, true, 0.25}},
                                         {{0, 0, 24}, {1, 1, 16, true, 0.25}},
                                         {{0, 12, 24}, {2, 1, 16, true, 0.25}, DType::f32}};
  for (const Problem& p : problems) {
    const auto own = run_attention(p);
    const std::int64_t before = attention_library_calls();
    const ThroughCudnn chosen;
    CHECK(run_attention(p) == own);
    CHECK(attention_library_calls() == before);
  }
}

}  // namespace expctr::test
