#include "engine/ops/embedding_rows.h"

#include <doctest/doctest.h>

#include <array>
#include <map>

#include "base/philox.h"
#include "engine/autograd/tape.h"
#include "engine/core/build_info.h"
#include "engine/ops/embedding.h"
#include "tests/ops/op_cases.h"

using namespace expctr;
using namespace expctr::test;

namespace {

std::vector<std::int32_t> ids_below(std::int64_t n, std::int64_t rows, std::uint32_t seed) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t bits = philox({seed, 3}, {static_cast<std::uint32_t>(i), 0, 0, 0}).word[0];
    ids.push_back(bits % 7 == 0 ? -1 : static_cast<std::int32_t>((bits / 7) % rows));
  }
  return ids;
}

// Vectors of one list, entry by entry.
void append_vectors(const Operand& table, const std::vector<std::int32_t>& ids, std::vector<double>& to) {
  const std::int64_t width = table.shape[1];
  for (const std::int32_t id : ids)
    for (std::int64_t c = 0; c < width; ++c) to.push_back(id < 0 ? 0.0 : table.values[static_cast<std::size_t>(id * width + c)]);
}

struct Sizes {
  std::int64_t rows_a, width_a, rows_b, width_b, n0, n1, n2;
};
constexpr std::array sizes = {Sizes{1, 1, 1, 1, 1, 1, 1}, Sizes{5, 3, 7, 4, 0, 6, 11}, Sizes{7, 4, 9, 8, 23, 0, 5},
                              Sizes{90, 16, 3, 1, 57, 40, 3}, Sizes{2, 5, 300, 67, 1500, 1400, 31}};

// Lists 0 and 2 are looked up in table a, list 1 in table b.
std::vector<Lookup> lookups(std::span<const Tensor> in) { return {{in[0], in[2]}, {in[1], in[3]}, {in[0], in[4]}}; }

std::vector<Operand> operands_of(const Sizes& s) {
  return {parameter(uniform({s.rows_a, s.width_a})), parameter(uniform({s.rows_b, s.width_b}, -1.0, 1.0, 2)), integers({s.n0}, ids_below(s.n0, s.rows_a, 1)),
          integers({s.n1}, ids_below(s.n1, s.rows_b, 2)), integers({s.n2}, ids_below(s.n2, s.rows_a, 3))};
}

std::string label_of(const Sizes& s) {
  return "of " + Shape{s.rows_a, s.width_a}.text() + " and " + Shape{s.rows_b, s.width_b}.text() + ", " + Shape{s.n0, s.n1, s.n2}.text() +
         " ids";
}

// One list of the result of gather_many; the reference names the same one.
OpCase& add_list_case(const Sizes& s, std::size_t list) {
  return add_case(
      "list " + std::to_string(list) + " " + label_of(s), operands_of(s),
      [list](std::span<const Tensor> in) { return gather_many(lookups(in))[list]; },
      [list](std::span<const Operand> in) {
        std::vector<double> y;
        append_vectors(in[list == 1 ? 1 : 0], in[2 + list].ids, y);
        return y;
      },
      s.n0 + s.n1 + s.n2);
}

}  // namespace

OP_CASES(gather_many) {
  for (const Sizes& s : sizes)
    for (const std::size_t list : {0, 1, 2}) add_list_case(s, list);
  for (const std::int64_t n : {1, 5, 600}) {
    add_case(
        "three columns, " + std::to_string(n) + " rows, a frozen one",
        {parameter(uniform({6, 4})), parameter(constant(uniform({5, 3}, -1.0, 1.0, 2))), integers({n}, ids_below(n, 6, 4)), integers({n}, ids_below(n, 5, 5)),
         integers({n}, ids_below(n, 6, 6))},
        [](std::span<const Tensor> in) {
          return gather_columns(std::vector<Lookup>{{in[0], in[2], -1}, {in[1], in[3], -1}, {in[0], in[4], -1}});
        },
        [n](std::span<const Operand> in) {
          std::vector<double> y;
          for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
            append_vectors(in[0], {in[2].ids[i]}, y);
            append_vectors(in[1], {in[3].ids[i]}, y);
            append_vectors(in[0], {in[4].ids[i]}, y);
          }
          return y;
        },
        2 * n);
  }
  add_error([] { gather_many({}); }, "gather_many: no lookups");
  add_error(
      [] {
        gather_many(std::vector<Lookup>{{Tensor::zeros({4}), Tensor::zeros({2}, DType::i32)}});
      },
      "gather_many: table is [4], expected 2 axes");
  add_error(
      [] {
        gather_many(std::vector<Lookup>{{Tensor::zeros({6, 2}), Tensor::of(std::vector<std::int32_t>{0, 6}, {2})}});
      },
      "gather_many: ids holds 6, but must stay below 6");
  add_error(
      [] {
        gather_columns(std::vector<Lookup>{{Tensor::zeros({6, 2}), Tensor::zeros({2}, DType::i32)},
                                           {Tensor::zeros({6, 2}), Tensor::zeros({3}, DType::i32)}});
      },
      "gather_columns: 3 ids beside 2");
}

namespace {

constexpr std::int64_t id_rows = 40;

// What sort_ids says about two lists of one space and one list of another, as numbers: the distinct ids, then for each its entries.
std::vector<double> described(std::span<const Tensor> in) {
  const std::vector<IdSpace> spaces = {{id_rows, 3}, {3, -1}};
  const std::vector<Tensor> lists = {in[0], in[1], in[2]};
  const SortedIds sorted = sort_ids(spaces, lists, std::vector<int>{0, 1, 0});
  const auto counts = sorted.counts.to_vector<std::int32_t>(), unique = sorted.unique.to_vector<std::int32_t>(),
             starts = sorted.starts.to_vector<std::int32_t>(), places = sorted.places.to_vector<std::int32_t>(),
             segments = sorted.segments.to_vector<std::int32_t>();
  std::vector<double> result;
  for (int s = 0; s < 2; ++s) {
    const std::size_t base = static_cast<std::size_t>(sorted.base(s)),
                      count = static_cast<std::size_t>(counts[static_cast<std::size_t>(s)]);
    for (std::size_t k = 0; k < count; ++k) {
      result.push_back(unique[base + k]);
      const std::int32_t* start = &starts[base + static_cast<std::size_t>(s) + k];
      for (std::int32_t i = start[0]; i < start[1]; ++i) {
        const std::size_t at = base + static_cast<std::size_t>(i);
        result.push_back(static_cast<std::size_t>(segments[at]) == k ? places[at] : -1000);
      }
    }
    for (std::size_t k = count; k < static_cast<std::size_t>(sorted.entries(s)); ++k)
      result.push_back(unique[base + k] == no_row ? -1 : -2000);
  }
  return result;
}

std::vector<double> plain_description(std::span<const Operand> in) {
  std::map<std::int32_t, std::vector<double>> entries[2];
  double entry = 0;
  std::size_t sizes_of[2] = {};
  for (std::size_t l = 0; l < 3; ++l) {
    const int s = l == 1 ? 1 : 0;
    for (const std::int32_t id : in[l].ids) {
      if (id >= 0 && !(s == 0 && id == 3)) entries[s][id].push_back(entry);
      ++entry;
    }
    sizes_of[s] += in[l].ids.size();
  }
  std::vector<double> result;
  for (int s = 0; s < 2; ++s) {
    for (const auto& [id, places] : entries[s]) {
      result.push_back(id);
      result.insert(result.end(), places.begin(), places.end());
    }
    for (std::size_t k = entries[s].size(); k < sizes_of[s]; ++k) result.push_back(-1);
  }
  return result;
}

Tensor as_floats(const std::vector<double>& values, const Tensor& like) {
  return Tensor::of(std::vector<float>(values.begin(), values.end()), {std::ssize(values)}, like.device());
}

}  // namespace

OP_CASES(sort_ids) {
  for (const auto& n : {std::array<std::int64_t, 3>{0, 0, 0}, {1, 0, 2}, {5, 3, 9}, {100, 4000, 33}, {3000, 17, 40000}}) {
    add_case(
        Shape{n[0], n[1], n[2]}.text(),
        {integers({n[0]}, ids_below(n[0], id_rows, 1)), integers({n[1]}, ids_below(n[1], 3, 2)),
         integers({n[2]}, ids_below(n[2], id_rows, 3))},
        [](std::span<const Tensor> in) { return as_floats(described(in), in[0]); },
        [](std::span<const Operand> in) { return plain_description(in); });
  }
  add_error(
      [] {
        sort_ids(std::vector<IdSpace>{{4, -1}}, std::vector<Tensor>{Tensor::of(std::vector<std::int32_t>{4}, {1})}, std::vector<int>{0});
      },
      "sort_ids: ids holds 4, but must stay below 4");
  add_error([] { sort_ids({}, {}, {}); }, "sort_ids: 0 lists");
}

OP_CASES(reduce_rows) {
  // Rows of the first space and the table of the second, scattered into dense tables by the reference.
  for (const auto& [rows, width, n] :
       {std::array<std::int64_t, 3>{1, 1, 1}, {5, 3, 0}, {7, 5, 23}, {900, 8, 300}, {3, 12, 5000}, {2000, 33, 2100}}) {
    const bool long_rows = n > 512 * rows;
    add_case(
        std::to_string(n) + " vectors into rows of " + Shape{rows, width}.text(),
        {constant(uniform({n, width})), integers({n}, ids_below(n, rows, 1))},
        [=](std::span<const Tensor> in) {
          const SortedIds sorted = sort_ids(std::vector<IdSpace>{{rows, rows - 1}}, std::vector<Tensor>{in[1]}, std::vector<int>{0});
          const RowGradient g = reduce_rows(in[0], sorted, std::vector<ListPlace>{{0, width}}, std::vector<Tensor>{Tensor()},
                                            std::vector<std::int64_t>{width})[0];
          // Row g.ids[k] of the dense gradient; fillers are dropped, and must be zero.
          const auto ids = g.ids.to_vector<std::int32_t>();
          const bool wide = g.rows.dtype() == DType::f64;
          const std::vector<double> d = wide ? g.rows.to_vector<double>() : std::vector<double>();
          const std::vector<float> f = wide ? std::vector<float>() : g.rows.to_vector<float>();
          std::vector<double> dense(static_cast<std::size_t>(rows * width));
          for (std::size_t k = 0; k < ids.size(); ++k) {
            for (std::int64_t c = 0; c < width; ++c) {
              const std::size_t from = k * static_cast<std::size_t>(width) + static_cast<std::size_t>(c);
              const double value = wide ? d[from] : static_cast<double>(f[from]);
              if (ids[k] < rows)
                dense[static_cast<std::size_t>(ids[k] * width + c)] = value;
              else if (value != 0.0)
                dense[0] = 1e30;
            }
          }
          if (wide) return Tensor::of(dense, {rows, width});
          return Tensor::of(std::vector<float>(dense.begin(), dense.end()), {rows, width}, in[0].device());
        },
        [=](std::span<const Operand> in) {
          std::vector<double> dense(static_cast<std::size_t>(rows * width));
          for (std::int64_t i = 0; i < n; ++i) {
            const std::int32_t id = in[1].ids[static_cast<std::size_t>(i)];
            if (id < 0 || id == rows - 1) continue;
            for (std::int64_t c = 0; c < width; ++c)
              dense[static_cast<std::size_t>(id * width + c)] += in[0].values[static_cast<std::size_t>(i * width + c)];
          }
          return dense;
        },
        long_rows ? n : 64);
  }
  add_error(
      [] {
        const SortedIds sorted =
            sort_ids(std::vector<IdSpace>{{4, -1}}, std::vector<Tensor>{Tensor::zeros({3}, DType::i32)}, std::vector<int>{0});
        reduce_rows(Tensor::zeros({5}), sorted, std::vector<ListPlace>{{0, 2}}, std::vector<Tensor>{Tensor()},
                    std::vector<std::int64_t>{2});
      },
      "reduce_rows: dy is shorter than the lists reach");
}

namespace {

std::vector<double> values_of(const Tensor& tensor) {
  const std::vector<float> values = tensor.to_vector<float>();
  return {values.begin(), values.end()};
}

// The gradient of a table as dense values, whichever it keeps.
std::vector<double> dense_gradient(const Tensor& table) {
  if (!table.wants_row_gradient()) return values_of(table.gradient());
  const RowGradient g = table.row_gradient();
  const auto ids = g.ids.to_vector<std::int32_t>();
  const std::vector<double> rows = values_of(g.rows);
  const std::size_t width = static_cast<std::size_t>(table.dim(1));
  std::vector<double> dense(static_cast<std::size_t>(table.size()));
  for (std::size_t k = 0; k < ids.size() && ids[k] != no_row; ++k)
    std::copy_n(rows.begin() + static_cast<std::ptrdiff_t>(k * width), width,
                dense.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(ids[k]) * width));
  return dense;
}

}  // namespace

TEST_CASE("a gradient by rows is the dense one without its zero rows, from one look-up, from many, and merged from several") {
  std::vector<Device> devices = {cpu_device};
  if constexpr (has_cuda) devices.push_back({DeviceType::cuda, 0});
  for (const Device device : devices) {
    std::vector<double> gradient[2][2];
    for (const bool by_rows : {false, true}) {
      const auto table = [&](const Shape& shape, std::uint64_t seed) {
        const Operand values = uniform(shape, -1.0, 1.0, seed);
        Tensor t = Tensor::of(std::vector<float>(values.values.begin(), values.values.end()), shape, device);
        return by_rows ? t.require_row_gradient() : t.require_gradient();
      };
      const Tensor a = table({60, 4}, 1), b = table({9, 3}, 2);
      const auto list = [&](std::int64_t n, std::int64_t rows, std::uint32_t seed) {
        return Tensor::of(ids_below(n, rows, seed), {n}, device);
      };
      Tape tape;
      std::vector<Tensor> y = gather_many(std::vector<Lookup>{{a, list(70, 60, 1), 7}, {b, list(11, 9, 2)}, {a, list(20, 60, 3), 7}});
      y.push_back(gather(a, list(15, 60, 4), 7));  // merged with the one before
      y.push_back(gather_columns(std::vector<Lookup>{{b, list(13, 9, 5)}, {b, list(13, 9, 6)}}));
      std::vector<Tensor> dy;
      for (const Tensor& each : y) {
        const Operand values = uniform(each.shape(), -1.0, 1.0, 9);
        dy.push_back(Tensor::of(std::vector<float>(values.values.begin(), values.values.end()), each.shape(), device));
      }
      tape.backward(y, dy);
      gradient[by_rows][0] = dense_gradient(a);
      gradient[by_rows][1] = dense_gradient(b);
      if (by_rows) CHECK(a.row_gradient().rows.dim(0) < 120);
    }
    for (const int t : {0, 1})
      for (std::size_t i = 0; i < gradient[0][t].size(); ++i) CHECK(gradient[1][t][i] == doctest::Approx(gradient[0][t][i]).epsilon(1e-6));
  }
}
