#include "models/ctr/din_batch.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "base/error.h"
#include "base/hash.h"

namespace expctr {
namespace {

// Distinct history positions, by all ids of a position.
class EntryIndex {
 public:
  explicit EntryIndex(const DinArrays& arrays) : arrays_(arrays) {
    const std::size_t positions = static_cast<std::size_t>(arrays.rows * arrays.history);
    slots_.assign(std::bit_ceil(std::max<std::size_t>(16, 2 * positions)), -1);
  }

  std::int32_t entry(std::int64_t position) {
    const std::uint64_t mask = slots_.size() - 1;
    for (std::uint64_t at = hash(position) & mask;; at = (at + 1) & mask) {
      std::int32_t& slot = slots_[at];
      if (slot < 0) {
        slot = static_cast<std::int32_t>(first_.size());
        first_.push_back(position);
        return slot;
      }
      if (same(first_[static_cast<std::size_t>(slot)], position)) return slot;
    }
  }

  /// One position of each entry.
  const std::vector<std::int64_t>& first() const { return first_; }

 private:
  std::uint64_t hash(std::int64_t position) const {
    std::uint64_t h =
        arrays_.history_label.empty() ? 0 : static_cast<std::uint64_t>(arrays_.history_label[static_cast<std::size_t>(position)]);
    for (const FieldArray& field : arrays_.history_fields) {
      for (std::int64_t c = 0; c < field.width; ++c) {
        h = (std::rotl(h, 23) ^ static_cast<std::uint32_t>(field.ids[static_cast<std::size_t>(position * field.width + c)])) *
            0x9E3779B97F4A7C15ull;
      }
    }
    return splitmix64(h);
  }

  bool same(std::int64_t a, std::int64_t b) const {
    if (!arrays_.history_label.empty() &&
        arrays_.history_label[static_cast<std::size_t>(a)] != arrays_.history_label[static_cast<std::size_t>(b)])
      return false;
    return std::ranges::all_of(arrays_.history_fields, [&](const FieldArray& field) {
      const auto* ids = field.ids.data();
      return std::equal(ids + a * field.width, ids + (a + 1) * field.width, ids + b * field.width);
    });
  }

  const DinArrays& arrays_;
  std::vector<std::int32_t> slots_;
  std::vector<std::int64_t> first_;
};

// Ids of the entries at `positions` of a field as a list per entry (width > 1) or one id each.
FieldIds field_ids(const FieldArray& field, std::span<const std::int64_t> positions, Device device) {
  std::vector<std::int32_t> ids, offsets;
  const std::int64_t n = std::ssize(positions);
  if (field.width == 1) {
    for (const std::int64_t p : positions) ids.push_back(field.ids[static_cast<std::size_t>(p)]);
    return {Tensor::of(ids, {n}, device), {}};
  }
  offsets.push_back(0);
  for (const std::int64_t p : positions) {
    for (std::int64_t c = 0; c < field.width; ++c) {
      const std::int32_t id = field.ids[static_cast<std::size_t>(p * field.width + c)];
      if (id != 0) ids.push_back(id);
    }
    offsets.push_back(static_cast<std::int32_t>(ids.size()));
  }
  return {Tensor::of(ids, {std::ssize(ids)}, device), Tensor::of(offsets, {n + 1}, device)};
}

Tensor floats(const std::vector<float>& values, const Shape& shape, DType dtype, Device device) {
  if (dtype == DType::f64) return Tensor::of(std::vector<double>(values.begin(), values.end()), shape, device);
  return Tensor::of(values, shape, device);
}

void check_field(const char* kind, std::size_t index, const FieldArray& field, std::int64_t entries) {
  if (field.width < 1 || std::ssize(field.ids) != entries * field.width) {
    throw ShapeError(
        fmt::format("DIN: {} field {} has {} ids of width {}, expected {} entries", kind, index, field.ids.size(), field.width, entries));
  }
}

}  // namespace

DinBatch make_din_batch(const DinArrays& arrays, const DinOptions& options, DType dtype, Device device) {
  const std::int64_t positions = arrays.rows * arrays.history;
  for (std::size_t i = 0; i < arrays.fields.size(); ++i) check_field("row", i, arrays.fields[i], arrays.rows);
  for (std::size_t i = 0; i < arrays.history_fields.size(); ++i) check_field("history", i, arrays.history_fields[i], positions);
  if (arrays.history_fields.empty()) throw ShapeError("DIN: no history fields");
  if (options.map_layer && std::ssize(arrays.history_label) != positions) {
    throw ShapeError(fmt::format("DIN: {} history labels, expected {}", arrays.history_label.size(), positions),
                     "the map layer reads a label for each history position");
  }

  DinBatch batch;
  batch.rows = arrays.rows;
  batch.history = arrays.history;
  std::vector<std::int64_t> all(static_cast<std::size_t>(arrays.rows));
  for (std::size_t r = 0; r < all.size(); ++r) all[r] = static_cast<std::int64_t>(r);
  for (const FieldArray& field : arrays.fields) batch.fields.push_back(field_ids(field, all, device));

  EntryIndex index(arrays);
  std::vector<std::int32_t> entry(static_cast<std::size_t>(positions)), pick(static_cast<std::size_t>(arrays.rows), 0);
  std::vector<float> mask(static_cast<std::size_t>(positions)), one_hot, shift;
  const FieldArray& leading = arrays.history_fields[0];
  for (std::int64_t p = 0; p < positions; ++p) {
    const auto at = static_cast<std::size_t>(p);
    entry[at] = index.entry(p);
    mask[at] = leading.ids[static_cast<std::size_t>(p * leading.width)] != 0 ? 1.0f : 0.0f;
  }
  for (const FieldArray& field : arrays.history_fields) batch.history_fields.push_back(field_ids(field, index.first(), device));
  if (options.map_layer) {
    std::vector<std::int32_t> label;
    for (const std::int64_t p : index.first()) label.push_back(arrays.history_label[static_cast<std::size_t>(p)]);
    batch.history_label = Tensor::of(label, {std::ssize(label)}, device);
  }
  if (options.softmax) {
    one_hot.assign(mask.size(), 0.0f);
    shift.assign(mask.size(), 0.0f);
    for (std::int64_t r = 0; r < arrays.rows; ++r) {
      const auto begin = mask.begin() + r * arrays.history, end = begin + arrays.history;
      const auto valid = std::find(begin, end, 1.0f);
      const std::int64_t at = valid == end ? 0 : valid - begin;
      pick[static_cast<std::size_t>(r)] = static_cast<std::int32_t>(at);
      if (arrays.history > 0) one_hot[static_cast<std::size_t>(r * arrays.history + at)] = 1.0f;
      if (valid == end) continue;
      for (std::int64_t j = 0; j < arrays.history; ++j) {
        if (begin[j] == 0.0f) shift[static_cast<std::size_t>(r * arrays.history + j)] = -1e9f;
      }
    }
    batch.pick = Tensor::of(pick, {arrays.rows}, device);
    batch.pick_one_hot = floats(one_hot, {arrays.rows, arrays.history}, dtype, device);
    batch.padding_shift = floats(shift, {arrays.rows, arrays.history}, dtype, device);
  }
  batch.history_entry = Tensor::of(entry, {positions}, device);
  batch.mask = floats(mask, {arrays.rows, arrays.history}, dtype, device);
  if (!arrays.sample_ids.empty()) batch.sample_ids = Tensor::of(arrays.sample_ids, {std::ssize(arrays.sample_ids)}, device);
  return batch;
}

}  // namespace expctr
