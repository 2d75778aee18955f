// The k best entries of a row. A row is read once: entries above the k-th best so far go into a buffer of a few k, which is cut back to k
// when it is full (nth_element), so most entries cost one vectorised comparison; bound by memory for k far below the number of columns.
#include "base/kernels/select.h"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "cpu/arguments.h"
#include "cpu/dispatch.h"
#include "cpu/run.h"

namespace expctr::cpu {
namespace {

template <class T>
struct Entry {
  T value;
  std::int32_t index;
};

template <class T>
bool better(const Entry<T>& a, const Entry<T>& b) {
  return a.value != b.value ? a.value > b.value : a.index < b.index;
}

/// Collects entries that come in ascending order of index.
template <class T>
class Best {
 public:
  Best(Entry<T>* buffer, std::int64_t capacity, std::int64_t k) : buffer_(buffer), capacity_(capacity), k_(k) {}

  /// x[begin .. end) of a row.
  void add(const T* x, std::int64_t begin, std::int64_t end) {
    constexpr std::int64_t block = 64;
    for (std::int64_t i = begin; i < end;) {
      const std::int64_t stop = std::min(end, i + block);
      if (full_ && stop - i == block) {
        std::int32_t above = 0;
        for (std::int64_t j = i; j < i + block; ++j) above |= static_cast<std::int32_t>(x[j] > threshold_);
        if (above == 0) {
          i = stop;
          continue;
        }
      }
      for (; i < stop; ++i) {
        // An equal entry that comes later is no better.
        if (full_ ? !(x[i] > threshold_) : x[i] != x[i]) continue;
        buffer_[count_++] = {x[i], static_cast<std::int32_t>(i)};
        if (count_ == capacity_) cut();
      }
    }
  }

  /// Sorts the best to the front; returns how many there are, at most k.
  std::int64_t finish() {
    const std::int64_t kept = std::min(k_, count_);
    std::partial_sort(buffer_, buffer_ + kept, buffer_ + count_, better<T>);
    return kept;
  }

 private:
  void cut() {
    std::nth_element(buffer_, buffer_ + (k_ - 1), buffer_ + count_, better<T>);
    count_ = k_;
    threshold_ = buffer_[k_ - 1].value;
    full_ = true;
  }

  Entry<T>* buffer_;
  std::int64_t capacity_, k_, count_ = 0;
  T threshold_ = 0;
  bool full_ = false;
};

std::int64_t buffer_entries(std::int64_t k) { return 4 * k + 64; }

}  // namespace

/// A buffer for each row's task comes from the thread.
template <>
std::size_t scratch_bytes(const TopK&) {
  return 0;
}

template <>
void run(const TopK& args, Stream) {
  require_floating("top_k", {{"x", args.x}, {"values", args.values}});
  const std::int64_t rows = args.x.rows(), columns = args.x.width(), k = args.values.width();
  require(args.x.rank == 2 && args.values.rank == 2 && args.values.shape[0] == rows && k >= 1 && k <= most_selected, "top_k",
          "x must be [rows, columns], values [rows, k], k at most 1024", {{"x", args.x}, {"values", args.values}});
  require(columns <= std::numeric_limits<std::int32_t>::max(), "top_k", "columns must be numbered in 32 bits", {{"x", args.x}});
  require_ids("top_k", "indices", args.indices, rows * k);
  const std::int32_t *offsets = nullptr, *excluded = nullptr;
  if (!args.excluded_offsets.empty()) {
    require_offsets("top_k", args.excluded_offsets, rows, args.excluded.size());
    require_ids("top_k", "excluded", args.excluded, args.excluded.size());
    offsets = args.excluded_offsets.as<const std::int32_t>();
    excluded = args.excluded.as<const std::int32_t>();
  }
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_rows(rows, columns, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t capacity = buffer_entries(k);
      Entry<T>* buffer = reinterpret_cast<Entry<T>*>(thread_scratch(static_cast<std::size_t>(capacity) * sizeof(Entry<T>)).data());
      for (std::int64_t row = begin; row < end; ++row) {
        const T* x = args.x.as<const T>() + row * columns;
        Best<T> best(buffer, capacity, k);
        std::int64_t next = 0;
        for (std::int32_t e = offsets == nullptr ? 0 : offsets[row]; offsets != nullptr && e < offsets[row + 1]; ++e) {
          // A list that does not ascend, or leaves the row, excludes what it can.
          if (excluded[e] < next || excluded[e] >= columns) continue;
          best.add(x, next, excluded[e]);
          next = excluded[e] + 1;
        }
        best.add(x, next, columns);
        const std::int64_t kept = best.finish();
        T* values = args.values.as<T>() + row * k;
        std::int32_t* indices = args.indices.as<std::int32_t>() + row * k;
        for (std::int64_t j = 0; j < k; ++j) {
          values[j] = j < kept ? buffer[j].value : -std::numeric_limits<T>::infinity();
          indices[j] = j < kept ? buffer[j].index : -1;
        }
      }
    });
  });
}

template <>
void run(const TopKBackward& args, Stream) {
  require_floating("top_k backward", {{"dvalues", args.dvalues}, {"dx", args.dx}});
  const std::int64_t rows = args.dx.rows(), columns = args.dx.width(), k = args.dvalues.width();
  require(args.dx.rank == 2 && args.dvalues.rank == 2 && args.dvalues.shape[0] == rows, "top_k backward",
          "dx must be [rows, columns], dvalues [rows, k]", {{"dx", args.dx}, {"dvalues", args.dvalues}});
  require_ids("top_k backward", "indices", args.indices, rows * k);
  require_ids_below("top_k backward", "indices", args.indices, columns);
  const std::int32_t* indices = args.indices.as<const std::int32_t>();
  with_floating(args.dx.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_rows(rows, k, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin * k; i < end * k; ++i)
        if (indices[i] >= 0) args.dx.as<T>()[i / k * columns + indices[i]] += args.dvalues.as<const T>()[i];
    });
  });
}

}  // namespace expctr::cpu
