// Every memory-bound kernel asks for at most 1.15 times its compulsory bytes, in whole sectors, at realistic shapes, in f32 and bf16, on
// both architectures. A body launches kernels of a family; all of them are held to the bound.
#include "base/kernels/elementwise.h"
#include "base/kernels/embedding.h"
#include "base/kernels/loss.h"
#include "base/kernels/norm.h"
#include "base/kernels/optim.h"
#include "base/kernels/reduce.h"
#include "base/kernels/rotary.h"
#include "tests/cuda_profile/traffic.h"
#include "tests/support/paths.h"

using namespace expctr;
using namespace expctr::test;

namespace {

/// 0 .. count - 1 in an order without neighbours.
std::vector<std::int32_t> shuffled(std::int64_t count) {
  std::vector<std::int32_t> values;
  for (std::int64_t i = 0; i < count; ++i) values.push_back(static_cast<std::int32_t>(i * 4099 % count));
  return values;
}

void norms(DType dtype, std::int64_t rows, std::int64_t width) {
  const Buffer x({rows, width}, dtype), y({rows, width}, dtype), dy({rows, width}, dtype), gain({width}), bias({width}), mean({rows}),
      inverse({rows}), dgain({width}), dbias({width});
  launch(RmsNormForward{1e-5, x, gain, y, inverse});
  launch(RmsNormBackward{x, gain, inverse, dy, y, {}, {}});
  launch(RmsNormBackward{x, gain, inverse, dy, {}, dgain, {}});
  launch(LayerNormForward{1e-5, x, gain, bias, y, mean, inverse});
  launch(LayerNormBackward{x, gain, mean, inverse, dy, y, {}, {}, {}});
  launch(LayerNormBackward{x, gain, mean, inverse, dy, {}, dgain, dbias, {}});
}

void cross_entropy(DType dtype, std::int64_t rows, std::int64_t classes) {
  const Buffer logits({rows, classes}, dtype), dlogits({rows, classes}, dtype), targets = Buffer::ids(every(rows, 3)), loss({rows}),
                                                                                sum({rows});
  launch(CrossEntropyForward{logits, targets, loss, sum});
  launch(CrossEntropyBackward{logits, targets, sum, loss, dlogits});
}

/// One large tensor and 200 small ones.
void adamw(std::int64_t parameters) {
  const std::int64_t small = 100, all = parameters + 200 * small;
  const Buffer p({all}), g({all}), m({all}), v({all}), total({1}, DType::f64);
  const auto part = [&](View view, std::int64_t begin, std::int64_t count) {
    view.data = view.as<float>() + begin;
    view.shape[0] = count;
    return view;
  };
  std::vector<AdamTensor> tensors;
  std::vector<View> gradients;
  for (std::int64_t begin = 0; begin < all; begin += tensors.size() == 1 ? parameters : small) {
    const std::int64_t count = begin == 0 ? parameters : small;
    tensors.push_back({part(p, begin, count), part(g, begin, count), part(m, begin, count), part(v, begin, count)});
    gradients.push_back(part(g, begin, count));
  }
  launch(AdamW{1e-3, 0.9, 0.999, 1e-8, 0.01, 1.0, 1, tensors.data(), static_cast<int>(tensors.size())});
  launch(SquaredNorm{gradients.data(), static_cast<int>(gradients.size()), total, {}});
}

}  // namespace

TEST_CASE("traffic: elementwise") {
  check_body(10, [](DType dtype) {
    const std::int64_t n = 1024 * 576;
    const Buffer a({n}, dtype), b({n}, dtype), c({n}, dtype), d({n}, dtype), e({n}, dtype);
    launch(UnaryForward{Unary::gelu, a, b});
    launch(UnaryBackward{Unary::gelu, a, b, c});
    launch(Affine{2, 1, a, b});
    launch(Axpy{2, a, b});
    launch(BinaryForward{Binary::divide, a, b, c});
    launch(BinaryBackward{Binary::divide, a, b, c, d, {}, {}});
    launch(SwigluForward{a, b, c});
    launch(SwigluBackward{a, b, c, d, e});
    launch(Fill{1, a});
    launch(WhereForward{a, b, c, d});
  });
}

TEST_CASE("traffic: broadcast elementwise, dropout and conversion") {
  check_body(8, [](DType dtype) {
    const std::int64_t rows = 1024, width = 576;
    const Buffer x({rows, width}, dtype), y({rows, width}, dtype), row({width}, dtype), column({rows, 1}, dtype), f({rows, width}),
        h({rows, width}, DType::bf16), sample = Buffer::ids(every(rows, 1));
    launch(BinaryForward{Binary::add, x, row, y});
    launch(BinaryForward{Binary::multiply, x, column, y});
    launch(BinaryBackward{Binary::multiply, x, row, y, x, {}, {}});
    launch(BinaryBackward{Binary::multiply, x, column, y, x, {}, {}});
    launch(Dropout{0.1f, 1, 2, 3, 4, false, x, sample, y});
    launch(Dropout{0.1f, 1, 2, 3, 4, true, x, sample, y});
    launch(Convert{f, h});
    launch(Convert{h, f});
  });
}

TEST_CASE("traffic: gradients of broadcast operands") {
  check_body(5, [](DType dtype) {
    const std::int64_t rows = 4096, width = 576;
    const Buffer x({rows, width}, dtype), dy({rows, width}, dtype), row({width}, dtype), column({rows, 1}, dtype);
    launch(BinaryBackward{Binary::add, x, row, dy, {}, row, {}});  // sums down the columns, then the chunks
    launch(BinaryBackward{Binary::multiply, x, row, dy, {}, row, {}});
    launch(BinaryBackward{Binary::multiply, x, column, dy, {}, column, {}});  // a row is one sum
  });
}

TEST_CASE("traffic: rms_norm and layer_norm") {
  check_body(8, [](DType dtype) { norms(dtype, 8192, 576); });
}

TEST_CASE("traffic: dice") {
  check_body(8, [](DType dtype) {
    const std::int64_t rows = 65536, width = 80;
    const Buffer x({rows, width}, dtype), y({rows, width}, dtype), dy({rows, width}, dtype), alpha({width}), mean({width}),
        inverse({width}), running_mean({width}), running_variance({width}), dalpha({width});
    launch(DiceForward{1e-9, 0.01, true, x, alpha, running_mean, running_variance, y, mean, inverse, {}});
    launch(DiceBackward{true, x, alpha, mean, inverse, dy, y, dalpha, {}});
  });
}

TEST_CASE("traffic: reductions") {
  check_body(9, [](DType dtype) {
    const std::int64_t rows = 2048, width = 576, length = 32;
    const Buffer x({rows, width}, dtype), columns({1, width}, dtype), sums({rows, 1}, dtype), segments({rows / length, width}, dtype),
        offsets = Buffer::ids(every(rows / length + 1, static_cast<std::int32_t>(length)));
    const auto shaped = [](View view, std::int64_t a, std::int64_t b, std::int64_t c) {
      view.rank = c == 0 ? 2 : 3;
      view.shape[0] = a;
      view.shape[1] = b;
      view.shape[2] = c;
      return view;
    };
    launch(SumForward{1, shaped(x, 1, rows, width), columns, {}});
    launch(SumForward{1, shaped(x, rows, width, 1), sums, {}});
    launch(SumForward{1, shaped(x, rows / length, length, width), segments, {}});
    launch(SumBackward{1, columns, shaped(x, 1, rows, width)});
    launch(SumBackward{1, sums, shaped(x, rows, width, 1)});
    launch(SumBackward{1, segments, shaped(x, rows / length, length, width)});
    launch(SegmentMeanForward{x, offsets, segments});
    launch(SegmentMeanBackward{segments, offsets, x});
  });
}

TEST_CASE("traffic: embedding and columns") {
  const std::int64_t rows = 8192, width = 576, n = 2048;
  for (const int capability : {80, 90})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const LaunchProfile profile = profile_launches(capability,
                                                     [&] {
                                                       const Buffer table({rows, width}, dtype), y({n, width}, dtype),
                                                           ids = Buffer::ids(shuffled(n)), dtable({rows, width}),
                                                           half({n, width / 2}, dtype);
                                                       launch(Gather{table, ids, y});
                                                       launch(CopyColumns{width / 2, width / 4, 0, false, y, half});
                                                       launch(CopyColumns{width / 2, 0, width / 4, true, half, y});
                                                       launch(GatherBackward{-1, y, ids, dtable, {}});
                                                     },
                                                     {.checks = "none"});
      if (!profile.here) return skip_test(no_launch_profile);
      INFO("compute capability ", capability, ", ", std::string(dtype_name(dtype)));
      REQUIRE(profile.launches.size() > 4);  // the others sort the ids
      for (const char* kernel : {"gather_kernel", "copy_columns_kernel", "add_rows_kernel"})
        for (const KernelLaunch& launch : profile.of(kernel)) CHECK(traffic_complaint(launch) == "");
      // The sort moves pairs to scattered places, 4 bytes of a sector each; the op as a whole keeps the bound.
      KernelLaunch whole = profile.total("");
      CHECK(whole.excess() <= most_excess);
      CHECK(whole.sector_efficiency() >= least_sector_efficiency);
    }
}

TEST_CASE("traffic: losses") {
  check_body(8, [](DType dtype) {
    cross_entropy(dtype, 48, 49152);
    const std::int64_t n = 65536;
    const Buffer logits({n}, dtype), dlogits({n}, dtype), labels({n}), loss({n}), old({n}), advantage({n}), clipped({n});
    launch(BceForward{logits, labels, loss});
    launch(BceBackward{logits, labels, loss, dlogits});
    launch(PolicyLossForward{0.2, labels, old, advantage, loss, clipped});
    launch(PolicyLossBackward{0.2, labels, old, advantage, loss, clipped});
    launch(ValueLossForward{0.2, logits, old, labels, loss});
    launch(ValueLossBackward{0.2, logits, old, labels, loss, dlogits});
  });
}

TEST_CASE("traffic: rotary embedding") {
  check_body(2, [](DType dtype) {
    const std::int64_t tokens = 8192, heads = 9, head_dim = 64;
    const Buffer x({tokens, heads, head_dim}, dtype), y({tokens, heads, head_dim}, dtype), table({2048, head_dim});
    std::vector<std::int32_t> positions;
    for (std::int64_t t = 0; t < tokens; ++t) positions.push_back(static_cast<std::int32_t>(t % 2048));
    const Buffer places = Buffer::ids(positions);
    launch(Rotary{false, false, x, places, table, y});
    launch(Rotary{true, true, x, places, table, y});
  });
}

TEST_CASE("traffic: optimiser, one launch for all tensors") {
  check_body(3, [](DType) { adamw(1 << 20); }, {{80, DType::f32}, {90, DType::f32}});
}

TEST_CASE("traffic: the bound notices kernels that read twice, or a part of each sector") {
  const std::int64_t rows = 64, width = 12000;
  const LaunchProfile profile = profile_launches(90, [&] {
    const Buffer x({rows, width}), y({rows, width}), gain({width}), inverse({rows}), column({rows * width / 16, 1});
    launch(RmsNormForward{1e-5, x, gain, y, inverse});  // too wide to be held: the row is read again
    View narrow = x;
    narrow.shape[0] = rows * width / 16;
    narrow.shape[1] = 16;
    launch(CopyColumns{1, 3, 0, false, narrow, column});  // 4 bytes of every other sector
  });
  if (!profile.here) return skip_test(no_launch_profile);
  CHECK(profile.only("rms_norm").excess() > 1.4);
  CHECK(traffic_complaint(profile.only("rms_norm")) != "");
  CHECK(profile.only("copy_columns").sector_efficiency() < 0.3);
  CHECK(traffic_complaint(profile.only("copy_columns")) != "");
}

TEST_SUITE("slow") {
  TEST_CASE("traffic at full size") {
    const std::vector<Storage> all = {{80, DType::f32}, {80, DType::bf16}, {90, DType::f32}, {90, DType::bf16}};
    check_body(
        2, [](DType dtype) { cross_entropy(dtype, 1024, 49152); }, all);
    check_body(
        8, [](DType dtype) { norms(dtype, 8192, 576); }, all);
    check_body(
        8, [](DType dtype) { norms(dtype, 4096, 4096); }, all);
    check_body(3, [](DType) { adamw(10'000'000); }, {{80, DType::f32}, {90, DType::f32}});
  }
}
