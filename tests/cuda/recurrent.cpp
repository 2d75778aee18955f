#include "base/kernels/recurrent.h"

#include <doctest/doctest.h>

#include <limits>

#include "base/blocks.h"
#include "cpu/run.h"
#include "tests/cuda/device_tensor.h"

using namespace expctr;
using namespace expctr::test;

namespace {

/// Values that bf16 holds exactly, so that both storages see the same numbers.
std::vector<float> in_bf16(std::vector<float> values) {
  for (float& value : values) value = float_of_bf16(bf16_of_float(value));
  return values;
}

/// A device tensor in f32 or bf16.
DeviceTensor stored(const std::vector<float>& values, const Shape& shape, DType dtype, std::size_t shift = 0) {
  if (dtype == DType::f32) return DeviceTensor(values, shape, shift);
  std::vector<std::uint16_t> halves;
  for (const float value : values) halves.push_back(bf16_of_float(value));
  return DeviceTensor(DType::bf16, shape, halves.data(), shift);
}

std::vector<float> floats_of(const DeviceTensor& tensor) {
  if (tensor.view().dtype == DType::f32) return tensor.read();
  std::vector<float> values;
  for (const std::uint16_t half : tensor.read<std::uint16_t>()) values.push_back(float_of_bf16(half));
  return values;
}

/// A float64 tensor of the host.
struct HostTensor {
  std::vector<double> values;
  Shape shape;
  HostTensor(const std::vector<float>& from, Shape extents) : values(from.begin(), from.end()), shape(std::move(extents)) {}
  explicit HostTensor(Shape extents) : values(static_cast<std::size_t>(elements(extents))), shape(std::move(extents)) {}
  operator View() {
    View view;
    view.data = values.data();
    view.dtype = DType::f64;
    view.rank = static_cast<int>(shape.size());
    for (std::size_t i = 0; i < shape.size(); ++i) view.shape[i] = shape[i];
    return view;
  }
};

template <class Args>
void run_on_host(Args args) {
  std::vector<std::byte> scratch(cpu::scratch_bytes(args));
  args.scratch.data = scratch.data();
  args.scratch.dtype = DType::u8;
  args.scratch.rank = 1;
  args.scratch.shape[0] = static_cast<std::int64_t>(scratch.size());
  cpu::run(args, Stream{});
}

struct Case {
  RecurrentCell cell;
  std::int64_t batch, time, hidden;
  bool lengths, initial;
  std::size_t shift = 0;
};

void check_case(const Case& c, DType dtype) {
  CAPTURE(static_cast<int>(c.cell));
  CAPTURE(c.batch);
  CAPTURE(c.hidden);
  CAPTURE(dtype_name(dtype));
  const bool is_lstm = c.cell == RecurrentCell::lstm, weighted = c.cell == RecurrentCell::augru;
  const std::int64_t columns = recurrent_gates(c.cell) * c.hidden;
  const float scale = 1.0f / std::sqrt(static_cast<float>(c.hidden));
  const Shape steps{c.batch, c.time, c.hidden}, gates{c.batch, c.time, columns}, rows{c.batch, c.hidden}, per_step{c.batch, c.time};
  std::vector<float> projected = in_bf16(random_floats(elements(gates), 1)),
                     attention = in_bf16(random_floats(elements(per_step), 2, 0, 1));
  const std::vector<float> weight = in_bf16(random_floats(columns * c.hidden, 3, -2 * scale, 2 * scale)),
                           bias_input = random_floats(columns, 4, -0.5f, 0.5f), bias_hidden = random_floats(columns, 5, -0.5f, 0.5f),
                           initial = in_bf16(random_floats(elements(rows), 6)), initial_cell = in_bf16(random_floats(elements(rows), 7));
  const std::vector<float> dstates = in_bf16(random_floats(elements(steps), 8)), dlast = in_bf16(random_floats(elements(rows), 9)),
                           dlast_cell = in_bf16(random_floats(elements(rows), 10)),
                           old = in_bf16(random_floats(elements(gates) + columns * c.hidden, 11));
  std::vector<std::int32_t> lengths = random_ids(c.batch, 12, 0, static_cast<std::int32_t>(c.time) + 1);
  if (!c.lengths) lengths.assign(static_cast<std::size_t>(c.batch), static_cast<std::int32_t>(c.time));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (std::int64_t b = 0; b < c.batch; ++b)
    for (std::int64_t t = lengths[b]; t < c.time; ++t) {
      attention[b * c.time + t] = nan;
      std::fill_n(projected.begin() + (b * c.time + t) * columns, columns, nan);
    }
  const auto first = [&](const Shape& shape) { return std::vector<float>(old.begin(), old.begin() + elements(shape)); };
  const View none;

  // Reference: the same kernels on the CPU in float64.
  HostTensor h_projected(projected, gates), h_attention(attention, per_step), h_weight(weight, {columns, c.hidden}),
      h_bias_input(bias_input, {columns}), h_bias_hidden(bias_hidden, {columns}), h_initial(initial, rows),
      h_initial_cell(initial_cell, rows), h_states(steps), h_last(rows), h_last_cell(rows), h_saved({c.batch, c.time, 4 * c.hidden}),
      h_cells(steps), h_dstates(dstates, steps), h_dlast(dlast, rows), h_dlast_cell(dlast_cell, rows), h_dprojected(first(gates), gates),
      h_dweight(first({columns, c.hidden}), {columns, c.hidden}), h_dbias_input(first({columns}), {columns}),
      h_dbias_hidden(first({columns}), {columns}), h_dattention(first(per_step), per_step), h_dinitial(first(rows), rows),
      h_dinitial_cell(first(rows), rows);
  View h_lengths;
  h_lengths.data = lengths.data();
  h_lengths.dtype = DType::i32;
  h_lengths.rank = 1;
  h_lengths.shape[0] = c.batch;
  const auto maybe = [&](bool there, View view) { return there ? view : none; };
  run_on_host(RecurrentForward{c.cell,
                               h_projected,
                               h_weight,
                               h_bias_input,
                               h_bias_hidden,
                               maybe(weighted, h_attention),
                               h_lengths,
                               maybe(c.initial, h_initial),
                               maybe(c.initial && is_lstm, h_initial_cell),
                               h_states,
                               h_last,
                               maybe(is_lstm, h_last_cell),
                               h_saved,
                               maybe(is_lstm, h_cells),
                               {}});
  run_on_host(RecurrentBackward{c.cell,
                                h_weight,
                                maybe(weighted, h_attention),
                                h_lengths,
                                maybe(c.initial, h_initial),
                                maybe(c.initial && is_lstm, h_initial_cell),
                                h_states,
                                h_saved,
                                maybe(is_lstm, h_cells),
                                h_dstates,
                                h_dlast,
                                maybe(is_lstm, h_dlast_cell),
                                h_dprojected,
                                h_dweight,
                                h_dbias_input,
                                h_dbias_hidden,
                                maybe(weighted, h_dattention),
                                maybe(c.initial, h_dinitial),
                                maybe(c.initial && is_lstm, h_dinitial_cell),
                                {}});

  const DeviceTensor p = stored(projected, gates, dtype, c.shift), a = stored(attention, per_step, dtype, c.shift),
                     w(weight, {columns, c.hidden}), bi(bias_input, {columns}), bh(bias_hidden, {columns}),
                     h0 = stored(initial, rows, dtype, c.shift), c0 = stored(initial_cell, rows, dtype, c.shift), l(lengths, {c.batch}),
                     ds = stored(dstates, steps, dtype, c.shift), dl = stored(dlast, rows, dtype, c.shift),
                     dlc = stored(dlast_cell, rows, dtype, c.shift);
  std::vector<std::vector<float>> previous;
  for (int round = 0; round < 2; ++round) {
    const DeviceTensor states = DeviceTensor::output(steps, dtype, c.shift), last = DeviceTensor::output(rows, dtype, c.shift),
                       last_cell = DeviceTensor::output(rows, dtype, c.shift),
                       saved = DeviceTensor::output({c.batch, c.time, 4 * c.hidden}, dtype, c.shift),
                       cells = DeviceTensor::output(steps, dtype, c.shift);
    const DeviceTensor dp = stored(first(gates), gates, dtype, c.shift), dw(first({columns, c.hidden}), {columns, c.hidden}),
                       dbi(first({columns}), {columns}), dbh(first({columns}), {columns}),
                       da = stored(first(per_step), per_step, dtype, c.shift), dh0 = stored(first(rows), rows, dtype, c.shift),
                       dc0 = stored(first(rows), rows, dtype, c.shift);
    const View lengths_view = c.lengths ? l.view() : none;
    launch(RecurrentForward{c.cell,
                            p,
                            w,
                            bi,
                            bh,
                            maybe(weighted, a),
                            lengths_view,
                            maybe(c.initial, h0),
                            maybe(c.initial && is_lstm, c0),
                            states,
                            last,
                            maybe(is_lstm, last_cell),
                            saved,
                            maybe(is_lstm, cells),
                            {}});
    launch(RecurrentBackward{c.cell,
                             w,
                             maybe(weighted, a),
                             lengths_view,
                             maybe(c.initial, h0),
                             maybe(c.initial && is_lstm, c0),
                             states,
                             saved,
                             maybe(is_lstm, cells),
                             ds,
                             dl,
                             maybe(is_lstm, dlc),
                             dp,
                             dw,
                             dbi,
                             dbh,
                             maybe(weighted, da),
                             maybe(c.initial, dh0),
                             maybe(c.initial && is_lstm, dc0),
                             {}});
    std::vector<std::vector<float>> now = {floats_of(states), floats_of(last), floats_of(dp), dw.read(), dbi.read(), dbh.read()};
    std::vector<const HostTensor*> expected = {&h_states, &h_last, &h_dprojected, &h_dweight, &h_dbias_input, &h_dbias_hidden};
    const auto also = [&](bool there, const DeviceTensor& got, const HostTensor& reference) {
      if (!there) return;
      now.push_back(floats_of(got));
      expected.push_back(&reference);
    };
    also(is_lstm, last_cell, h_last_cell);
    also(weighted, da, h_dattention);
    also(c.initial, dh0, h_dinitial);
    also(c.initial && is_lstm, dc0, h_dinitial_cell);
    // States and gradients pass through every time step; in bf16 the state is rounded at each of them.
    const double epsilon = dtype == DType::f32 ? 0x1p-23 : 0x1p-9,
                 terms = static_cast<double>(dtype == DType::f32 ? c.time * c.hidden + c.batch : c.time);
    for (std::size_t i = 0; i < now.size(); ++i) {
      CAPTURE(i);
      check_close(now[i], expected[i]->values, terms, epsilon);
    }
    if (round == 1) CHECK(now == previous);
    previous = now;
  }
}

}  // namespace

TEST_CASE("recurrent cells in f32 and bf16 against float64, forward and backward, the same bits every time") {
  for (const RecurrentCell cell : {RecurrentCell::gru, RecurrentCell::augru, RecurrentCell::lstm}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Case cases[] = {{cell, 1, 1, 1, false, false},     {cell, 3, 3, 5, true, true},
                            {cell, 18, 4, 24, true, true},     {cell, 2, 2, 64, false, false},
                            {cell, 17, 2, 37, true, false, 4}, {cell, 5, 3, 40, true, true, 2 * dtype_bytes(dtype, 1)}};
      for (const Case& c : cases) check_case(c, dtype);
    }
  }
}

TEST_CASE("recurrent weights that do not fit into shared memory") {
  for (const DType dtype : {DType::f32, DType::bf16}) check_case({RecurrentCell::lstm, 3, 2, 200, true, true}, dtype);
  check_case({RecurrentCell::gru, 2, 2, 280, false, true}, DType::f32);  // more units than threads
}

TEST_CASE("recurrent cells: empty batches and no time steps") {
  for (const RecurrentCell cell : {RecurrentCell::gru, RecurrentCell::lstm})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      check_case({cell, 0, 3, 4, false, false}, dtype);
      check_case({cell, 3, 0, 4, false, true}, dtype);
    }
}

TEST_CASE("padding masks in f32 and bf16") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Shape& shape : {Shape{1, 1, 1}, Shape{3, 4, 5}, Shape{4, 3, 64}, Shape{0, 2, 3}}) {
      const std::vector<float> x = in_bf16(random_floats(elements(shape), 1)), old = in_bf16(random_floats(elements(shape), 2));
      std::vector<std::int32_t> lengths = random_ids(shape[0], 3, 0, static_cast<std::int32_t>(shape[1]) + 1);
      const DeviceTensor xt = stored(x, shape, dtype), l(lengths, {shape[0]}), y = DeviceTensor::output(shape, dtype),
                         sum = stored(old, shape, dtype);
      launch(MaskPadding{false, xt, l, y});
      launch(MaskPadding{true, xt, l, sum});
      std::vector<double> masked, added;
      for (std::int64_t i = 0; i < elements(shape); ++i) {
        const bool inside = i / shape[2] % shape[1] < lengths[i / (shape[1] * shape[2])];
        masked.push_back(inside ? x[i] : 0);
        added.push_back(old[i] + (inside ? x[i] : 0));
      }
      check_close(floats_of(y), masked, 1, 0);
      check_close(floats_of(sum), added, 1, dtype == DType::f32 ? 0x1p-23 : 0x1p-9);
    }
  }
}
