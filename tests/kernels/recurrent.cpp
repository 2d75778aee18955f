// Bits of the CPU kernels that look at many rows: the same alone and in a batch, for every instruction set and thread count.
#include "base/kernels/recurrent.h"

#include <doctest/doctest.h>

#include "base/kernels/nearest.h"
#include "base/kernels/sparse_matrix.h"
#include "tests/kernels/support.h"

using namespace expctr;
using namespace expctr::test;

namespace {

template <class Args>
void run_with_scratch(Args args) {
  Array<std::uint8_t> scratch({static_cast<std::int64_t>(cpu::scratch_bytes(args))}, std::uint8_t{0xCD});
  args.scratch = scratch.view();
  cpu::run(args, Stream{});
  CHECK(scratch.intact());
}

struct Layer {
  static constexpr std::int64_t hidden = 21;
  RecurrentCell cell;
  std::int64_t time;
  std::vector<std::int32_t> lengths;
  std::int64_t batch = static_cast<std::int64_t>(lengths.size()), columns = recurrent_gates(cell) * hidden;
  Array<float> projected{{batch, time, columns}}, attention{{batch, time}}, initial{{batch, hidden}}, dstates{{batch, time, hidden}},
      weight{{columns, hidden}}, bias{{columns}};
  Array<float> states{{batch, time, hidden}, 7}, last{{batch, hidden}, 7}, cells_last{{batch, hidden}, 7},
      saved{{batch, time, 4 * hidden}, 7}, cells{{batch, time, hidden}, 7};
  Array<float> dprojected{{batch, time, columns}}, dattention{{batch, time}}, dinitial{{batch, hidden}}, dweight{{columns, hidden}},
      dbias{{columns}};
  Layer(RecurrentCell kind, std::int64_t steps, std::vector<std::int32_t> row_lengths)
      : cell(kind), time(steps), lengths(std::move(row_lengths)) {
    weight.random(1, 0.3);
    bias.random(2);
  }
  void run() {
    View length_view;
    length_view.data = lengths.data();
    length_view.dtype = DType::i32;
    length_view.rank = 1;
    length_view.shape[0] = batch;
    const bool is_lstm = cell == RecurrentCell::lstm, weighted = cell == RecurrentCell::augru;
    const auto maybe = [](bool there, const Array<float>& array) { return there ? array.view() : View{}; };
    run_with_scratch(RecurrentForward{cell,
                                      projected.view(),
                                      weight.view(),
                                      bias.view(),
                                      bias.view(),
                                      maybe(weighted, attention),
                                      length_view,
                                      initial.view(),
                                      {},
                                      states.view(),
                                      last.view(),
                                      maybe(is_lstm, cells_last),
                                      saved.view(),
                                      maybe(is_lstm, cells),
                                      {}});
    run_with_scratch(RecurrentBackward{cell,
                                       weight.view(),
                                       maybe(weighted, attention),
                                       length_view,
                                       initial.view(),
                                       {},
                                       states.view(),
                                       saved.view(),
                                       maybe(is_lstm, cells),
                                       dstates.view(),
                                       last.view(),
                                       {},
                                       dprojected.view(),
                                       dweight.view(),
                                       dbias.view(),
                                       dbias.view(),
                                       maybe(weighted, dattention),
                                       dinitial.view(),
                                       {},
                                       {}});
    for (const Array<float>* array : {&states, &last, &cells_last, &saved, &cells, &dprojected, &dattention, &dinitial, &dweight, &dbias})
      CHECK(array->intact());
  }
  /// Row `from` of another batch as the only row, with `extra` more time steps of padding.
  void take(const Layer& other, std::int64_t from) {
    for (std::int64_t t = 0; t < std::min(time, other.time); ++t) {
      std::copy_n(other.projected.data() + (from * other.time + t) * columns, columns, projected.data() + t * columns);
      std::copy_n(other.dstates.data() + (from * other.time + t) * hidden, hidden, dstates.data() + t * hidden);
      attention[t] = other.attention[from * other.time + t];
    }
    std::copy_n(other.initial.data() + from * hidden, hidden, initial.data());
  }
};

bool same(const float* a, const float* b, std::int64_t n) { return std::memcmp(a, b, static_cast<std::size_t>(n) * sizeof(float)) == 0; }

}  // namespace

TEST_CASE("recurrent rows: the same bits alone and in a batch, with more padding, on any instruction set and thread count") {
  for (const RecurrentCell cell : {RecurrentCell::gru, RecurrentCell::augru, RecurrentCell::lstm}) {
    std::vector<std::int32_t> lengths;
    for (int r = 0; r < 61; ++r) lengths.push_back(r * 5 % 7);
    Layer whole(cell, 6, lengths);
    whole.projected.random(3);
    whole.attention.random(4);
    whole.initial.random(5);
    whole.dstates.random(6);
    whole.run();
    for_each_setting([&] {
      Layer again(cell, 6, lengths);
      again.projected.random(3);
      again.attention.random(4);
      again.initial.random(5);
      again.dstates.random(6);
      again.run();
      for (const auto& [first, second] : {std::pair{&whole.states, &again.states},
                                          {&whole.last, &again.last},
                                          {&whole.saved, &again.saved},
                                          {&whole.dprojected, &again.dprojected},
                                          {&whole.dweight, &again.dweight},
                                          {&whole.dbias, &again.dbias},
                                          {&whole.dattention, &again.dattention},
                                          {&whole.dinitial, &again.dinitial}})
        CHECK(same_bits(*first, *second));
      for (const std::int64_t row : {0, 1, 6, 33, 60}) {
        Layer alone(cell, 9, {lengths[static_cast<std::size_t>(row)]});
        alone.take(whole, row);
        alone.run();
        const std::int64_t hidden = Layer::hidden, steps = lengths[static_cast<std::size_t>(row)];
        CHECK(same(alone.states.data(), whole.states.data() + row * 6 * hidden, steps * hidden));
        CHECK(same(alone.last.data(), whole.last.data() + row * hidden, hidden));
        CHECK(same(alone.dprojected.data(), whole.dprojected.data() + row * 6 * whole.columns, steps * whole.columns));
        CHECK(same(alone.dattention.data(), whole.dattention.data() + row * 6, steps));
        CHECK(same(alone.dinitial.data(), whole.dinitial.data() + row * hidden, hidden));
        for (std::int64_t i = steps * hidden; i < 9 * hidden; ++i) CHECK(alone.states[i] == 0.0f);
      }
    });
  }
}

TEST_CASE("nearest codes and sparse products: the same bits alone and in a batch, on any instruction set and thread count") {
  const std::int64_t rows = 101, codes = 1100, width = 19, k = 5;
  Array<float> x({rows, width}), codebook({codes, width}), distances({rows, k}), sparse({rows, width}), values({rows * 3});
  Array<std::int32_t> indices({rows, k}), offsets({rows + 1}), columns({rows * 3});
  x.random(1);
  codebook.random(2);
  values.random(3);
  for (std::int64_t i = 0; i <= rows; ++i) offsets[i] = static_cast<std::int32_t>(3 * i);
  for (std::int64_t i = 0; i < rows * 3; ++i) columns[i] = static_cast<std::int32_t>(i * 7 % codes);
  run_with_scratch(NearestCodes{x.view(), codebook.view(), indices.view(), distances.view(), {}});
  cpu::run(SparseMatMul{false, offsets.view(), columns.view(), values.view(), codebook.view(), sparse.view()}, Stream{});
  for_each_setting([&] {
    Array<float> again({rows, k}), sparse_again({rows, width}), one({1, width}), one_distance({1, k}), one_sparse({1, width}),
        one_values({3});
    Array<std::int32_t> indices_again({rows, k}), one_index({1, k}), one_offsets({2}), one_columns({3});
    run_with_scratch(NearestCodes{x.view(), codebook.view(), indices_again.view(), again.view(), {}});
    cpu::run(SparseMatMul{false, offsets.view(), columns.view(), values.view(), codebook.view(), sparse_again.view()}, Stream{});
    CHECK(same_bits(distances, again));
    CHECK(same_bits(indices, indices_again));
    CHECK(same_bits(sparse, sparse_again));
    for (const std::int64_t row : {0, 47, 48, 100}) {
      std::copy_n(x.data() + row * width, width, one.data());
      std::copy_n(values.data() + row * 3, 3, one_values.data());
      std::copy_n(columns.data() + row * 3, 3, one_columns.data());
      one_offsets[1] = 3;
      run_with_scratch(NearestCodes{one.view(), codebook.view(), one_index.view(), one_distance.view(), {}});
      cpu::run(SparseMatMul{false, one_offsets.view(), one_columns.view(), one_values.view(), codebook.view(), one_sparse.view()},
               Stream{});
      CHECK(same(one_distance.data(), distances.data() + row * k, k));
      CHECK(std::equal(one_index.data(), one_index.data() + k, indices.data() + row * k));
      CHECK(same(one_sparse.data(), sparse.data() + row * width, width));
    }
  });
}
