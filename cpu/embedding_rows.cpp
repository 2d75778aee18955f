// Look-ups in many tables and their gradients by rows. Sorting: a stable radix sort of (id, entry) pairs, 8 bytes a pair, read and written
// once a digit of at most 11 bits; digits are counted in pieces of fixed length, so the result does not depend on threads. Summing: a piece
// takes the rows whose first entry falls into its range of sorted entries, so that frequent ids do not gather in one piece; 4 bytes an
// element of dy plus those of the touched rows, bounded by random reads. Nothing is of the size of a table.
#include "base/kernels/embedding_rows.h"

#include <algorithm>
#include <vector>

#include "base/kernels/embedding.h"
#include "cpu/arguments.h"
#include "cpu/dispatch.h"
#include "cpu/run.h"

namespace expctr::cpu {
namespace {

constexpr std::int64_t sort_piece = 16384;
constexpr int most_digit_bits = 11;

struct Pair {
  std::uint32_t id, entry;
};

/// Entries of each space and where its part of the sorted arrays begins.
struct SpaceRange {
  std::int64_t base = 0, n = 0;
};

std::vector<SpaceRange> space_ranges(int spaces, const IdList* lists, int list_count) {
  std::vector<SpaceRange> ranges(static_cast<std::size_t>(spaces));
  for (int l = 0; l < list_count; ++l) ranges[static_cast<std::size_t>(lists[l].space)].n += lists[l].ids.size();
  std::int64_t base = 0;
  for (SpaceRange& range : ranges) {
    range.base = base;
    base += range.n;
  }
  return ranges;
}

void require_lists(const char* op, const IdList* lists, int list_count, int spaces) {
  for (int l = 0; l < list_count; ++l) {
    require_ids(op, "ids", lists[l].ids, lists[l].ids.size());
    require(lists[l].space >= 0 && lists[l].space < spaces, op, "a list names a space that is not there", {{"ids", lists[l].ids}});
  }
}

/// `values` holds every vector that the lists address.
void require_reach(const char* op, const char* name, const IdList& list, std::int64_t width, const View& values) {
  const std::int64_t n = list.ids.size(), last = n == 0 ? 0 : list.offset + (n - 1) * list.stride + width;
  require(list.offset >= 0 && list.stride >= width && last <= values.size() && present(values), op,
          (std::string(name) + " is shorter than the lists reach, or a stride is below the width").c_str(),
          {{name, values}, {"ids", list.ids}});
}

std::int64_t total_ids(const IdList* lists, int list_count) {
  std::int64_t n = 0;
  for (int l = 0; l < list_count; ++l) n += lists[l].ids.size();
  return n;
}

std::int64_t sort_pieces(std::int64_t n) { return (n + sort_piece - 1) / sort_piece; }

/// Digits of one pass and the passes for ids up to `largest`.
struct Digits {
  int bits = 1, passes = 1;
};
Digits digits_for(std::int64_t largest) {
  int bits = 1;
  while ((largest >> bits) != 0) ++bits;
  const int passes = (bits + most_digit_bits - 1) / most_digit_bits;
  return {(bits + passes - 1) / passes, passes};
}

/// Sorts n pairs by id; returns the one of the two arrays that holds the result. histogram: sort_pieces(n) << most_digit_bits.
Pair* sort_pairs(Pair* from, Pair* to, std::int64_t n, std::int64_t largest, std::uint32_t* histogram) {
  const Digits digits = digits_for(largest);
  const std::int64_t pieces = sort_pieces(n), count = std::int64_t{1} << digits.bits;
  for (int pass = 0; pass < digits.passes; ++pass) {
    const int shift = pass * digits.bits;
    const auto digit = [=](std::uint32_t id) { return static_cast<std::int64_t>(id >> shift) & (count - 1); };
    for_pieces(n, sort_piece, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t piece = begin / sort_piece; piece * sort_piece < end; ++piece) {
        std::uint32_t* counts = histogram + piece * count;
        std::fill(counts, counts + count, 0u);
        for (std::int64_t i = piece * sort_piece; i < std::min(n, (piece + 1) * sort_piece); ++i) ++counts[digit(from[i].id)];
      }
    });
    std::uint32_t before = 0;
    for (std::int64_t d = 0; d < count; ++d) {
      for (std::int64_t piece = 0; piece < pieces; ++piece) {
        std::uint32_t& at = histogram[piece * count + d];
        const std::uint32_t here = at;
        at = before;
        before += here;
      }
    }
    for_pieces(n, sort_piece, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t piece = begin / sort_piece; piece * sort_piece < end; ++piece) {
        std::uint32_t* next = histogram + piece * count;
        for (std::int64_t i = piece * sort_piece; i < std::min(n, (piece + 1) * sort_piece); ++i) to[next[digit(from[i].id)]++] = from[i];
      }
    });
    std::swap(from, to);
  }
  return from;
}

/// All outputs of one space from its sorted pairs.
void write_segments(const Pair* pairs, std::int64_t n, std::uint32_t rows, std::int32_t* unique, std::int32_t* count, std::int32_t* places,
                    std::int32_t* starts, std::int32_t* segments) {
  std::int64_t i = 0, k = 0;
  for (; i < n && pairs[i].id < rows; ++i) {
    if (i == 0 || pairs[i].id != pairs[i - 1].id) {
      unique[k] = static_cast<std::int32_t>(pairs[i].id);
      starts[k++] = static_cast<std::int32_t>(i);
    }
    places[i] = static_cast<std::int32_t>(pairs[i].entry);
    segments[i] = static_cast<std::int32_t>(k - 1);
  }
  starts[k] = static_cast<std::int32_t>(i);
  *count = static_cast<std::int32_t>(k);
  std::fill(unique + k, unique + n, no_row);
}

struct SortPlan {
  std::size_t histogram_elements = 0, pairs = 0;
  std::vector<std::size_t> histogram_of;  ///< of each space
  std::size_t bytes() const { return 2 * pairs * sizeof(Pair) + histogram_elements * sizeof(std::uint32_t); }
};

SortPlan plan_sort(const std::vector<SpaceRange>& ranges) {
  SortPlan plan;
  for (const SpaceRange& range : ranges) {
    plan.histogram_of.push_back(plan.histogram_elements);
    plan.histogram_elements += static_cast<std::size_t>(sort_pieces(range.n)) << most_digit_bits;
    plan.pairs += static_cast<std::size_t>(range.n);
  }
  return plan;
}

}  // namespace

template <>
void run(const GatherMany& args, Stream) {
  require_floating("gather_many", {{"y", args.y}});
  require_lists("gather_many", args.lists, args.list_count, args.table_count);
  std::int64_t widest = 1, total = 0;
  for (int t = 0; t < args.table_count; ++t) {
    const View& table = args.tables[t];
    require(table.rank == 2 && table.dtype == args.y.dtype && present(table), "gather_many", "tables must be [rows, width] of y's dtype",
            {{"table", table}, {"y", args.y}});
    widest = std::max(widest, table.shape[1]);
  }
  for (int l = 0; l < args.list_count; ++l) {
    const View& table = args.tables[args.lists[l].space];
    require_reach("gather_many", "y", args.lists[l], table.shape[1], args.y);
    require_ids_below("gather_many", "ids", args.lists[l].ids, table.shape[0]);
    total += args.lists[l].ids.size();
  }
  with_floating(args.y.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_rows(total, widest, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      std::int64_t first = 0;
      for (int l = 0; l < args.list_count; ++l) {
        const IdList& list = args.lists[l];
        const View& table = args.tables[list.space];
        const std::int64_t n = list.ids.size(), width = table.shape[1], last = std::min(n, end - first);
        const std::int32_t* ids = list.ids.as<const std::int32_t>();
        for (std::int64_t i = std::max<std::int64_t>(0, begin - first); i < last; ++i) {
          T* to = args.y.as<T>() + list.offset + i * list.stride;
          if (ids[i] >= 0)
            std::copy_n(table.as<const T>() + ids[i] * width, width, to);
          else
            std::fill_n(to, width, T(0));
        }
        first += n;
      }
    });
  });
}

template <>
std::size_t scratch_bytes(const SortIds& args) {
  return plan_sort(space_ranges(args.space_count, args.lists, args.list_count)).bytes();
}

template <>
void run(const SortIds& args, Stream) {
  require_lists("sort_ids", args.lists, args.list_count, args.space_count);
  const std::int64_t n = total_ids(args.lists, args.list_count);
  require_ids("sort_ids", "unique", args.unique, n);
  require_ids("sort_ids", "counts", args.counts, args.space_count);
  require_ids("sort_ids", "places", args.places, n);
  require_ids("sort_ids", "starts", args.starts, n + args.space_count);
  require_ids("sort_ids", "segments", args.segments, n);
  require(n < no_row, "sort_ids", "too many ids for one call", {{"unique", args.unique}}, "split the batch");
  const std::vector<SpaceRange> ranges = space_ranges(args.space_count, args.lists, args.list_count);
  const SortPlan plan = plan_sort(ranges);
  require_scratch("sort_ids", args.scratch, plan.bytes());
  for (int l = 0; l < args.list_count; ++l) require_ids_below("sort_ids", "ids", args.lists[l].ids, args.spaces[args.lists[l].space].rows);
  Pair *pairs = args.scratch.as<Pair>(), *other = pairs + plan.pairs;
  std::uint32_t* histograms = reinterpret_cast<std::uint32_t*>(other + plan.pairs);
  const std::int64_t grain = args.space_count > 1 && n > sort_piece ? 1 : args.space_count;
  for_pieces(args.space_count, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t s = begin; s < end; ++s) {
      const SpaceRange range = ranges[static_cast<std::size_t>(s)];
      const IdSpace& space = args.spaces[s];
      Pair* own = pairs + range.base;
      std::int64_t at = 0, entry = 0;
      for (int l = 0; l < args.list_count; ++l) {
        const std::int64_t size = args.lists[l].ids.size();
        if (args.lists[l].space == s) {
          const std::int32_t* ids = args.lists[l].ids.as<const std::int32_t>();
          for (std::int64_t i = 0; i < size; ++i, ++at) {
            const bool named = ids[i] >= 0 && ids[i] != space.frozen_row;
            own[at] = {static_cast<std::uint32_t>(named ? ids[i] : space.rows), static_cast<std::uint32_t>(entry + i)};
          }
        }
        entry += size;
      }
      const Pair* sorted =
          sort_pairs(own, other + range.base, range.n, space.rows, histograms + plan.histogram_of[static_cast<std::size_t>(s)]);
      write_segments(sorted, range.n, static_cast<std::uint32_t>(space.rows), args.unique.as<std::int32_t>() + range.base,
                     args.counts.as<std::int32_t>() + s, args.places.as<std::int32_t>() + range.base,
                     args.starts.as<std::int32_t>() + range.base + s, args.segments.as<std::int32_t>() + range.base);
    }
  });
}

template <>
std::size_t scratch_bytes(const ReduceRows&) {
  return 0;
}

namespace {

/// Vectors of dy by entry number.
template <class T>
class EntryVectors {
 public:
  EntryVectors(const ReduceRows& args) {
    std::int64_t first = 0;
    for (int l = 0; l < args.list_count; ++l) {
      const IdList& list = args.lists[l];
      lists_.push_back({first, args.dy.as<const T>() + list.offset, list.stride});
      first += list.ids.size();
    }
  }
  /// `hint`: the list of the entry asked for before; entries mostly come from one list.
  const T* at(std::int64_t entry, std::size_t& hint) const {
    while (entry < lists_[hint].first) --hint;
    while (hint + 1 < lists_.size() && entry >= lists_[hint + 1].first) ++hint;
    return lists_[hint].values + (entry - lists_[hint].first) * lists_[hint].stride;
  }

 private:
  struct List {
    std::int64_t first;
    const T* values;
    std::int64_t stride;
  };
  std::vector<List> lists_;
};

template <class T>
void add_entries(const EntryVectors<T>& vectors, const std::int32_t* places, std::int64_t begin, std::int64_t end, std::int64_t width,
                 T* to) {
  std::size_t hint = 0;
  for (std::int64_t i = begin; i < end; ++i) {
    const T* from = vectors.at(places[i], hint);
    for (std::int64_t c = 0; c < width; ++c) to[c] += from[c];
  }
}

/// The unique ids of space s whose first place lies in [begin, end).
template <class T>
void reduce_range(const ReduceRows& args, int s, std::int64_t base, std::int64_t begin, std::int64_t end, const EntryVectors<T>& vectors) {
  const RowTarget& target = args.targets[s];
  const View& out = target.rows.empty() ? target.table : target.rows;
  const std::int64_t width = out.width(), count = args.counts.as<const std::int32_t>()[s];
  const std::int32_t* starts = args.starts.as<const std::int32_t>() + base + s;
  const std::int32_t *unique = args.unique.as<const std::int32_t>() + base, *places = args.places.as<const std::int32_t>() + base;
  for (std::int64_t k = std::lower_bound(starts, starts + count, begin) - starts; k < count && starts[k] < end; ++k) {
    T* to = out.as<T>() + (target.rows.empty() ? unique[k] : k) * width;
    if (!target.rows.empty()) std::fill_n(to, width, T(0));
    add_entries(vectors, places, starts[k], starts[k + 1], width, to);
  }
}

}  // namespace

template <>
void run(const ReduceRows& args, Stream) {
  require_floating("reduce_rows", {{"dy", args.dy}});
  require_lists("reduce_rows", args.lists, args.list_count, args.space_count);
  const std::int64_t n = total_ids(args.lists, args.list_count);
  require_ids("reduce_rows", "unique", args.unique, n);
  require_ids("reduce_rows", "places", args.places, n);
  require_ids("reduce_rows", "starts", args.starts, n + args.space_count);
  require_ids("reduce_rows", "counts", args.counts, args.space_count);
  const std::vector<SpaceRange> ranges = space_ranges(args.space_count, args.lists, args.list_count);
  std::int64_t widest = 1;
  for (int s = 0; s < args.space_count; ++s) {
    const RowTarget& target = args.targets[s];
    const View& out = target.rows.empty() ? target.table : target.rows;
    if (out.empty()) continue;
    const std::int64_t count = args.counts.as<const std::int32_t>()[s];
    require(
        out.rank == 2 && out.dtype == args.dy.dtype && (target.rows.empty() ? out.shape[0] == args.spaces[s].rows : out.shape[0] >= count),
        "reduce_rows", "the target must be [rows, width] of dy's dtype", {{"target", out}, {"dy", args.dy}});
    widest = std::max(widest, out.shape[1]);
    if (!target.rows.empty() && args.dy.dtype == DType::f64)
      std::fill(out.as<double>() + count * out.shape[1], out.as<double>() + out.size(), 0.0);
    else if (!target.rows.empty())
      std::fill(out.as<float>() + count * out.shape[1], out.as<float>() + out.size(), 0.0f);
  }
  for (int l = 0; l < args.list_count; ++l) {
    const RowTarget& target = args.targets[args.lists[l].space];
    const View& out = target.rows.empty() ? target.table : target.rows;
    if (!out.empty()) require_reach("reduce_rows", "dy", args.lists[l], out.shape[1], args.dy);
  }
  with_floating(args.dy.dtype, [&](auto zero) {
    using T = decltype(zero);
    const EntryVectors<T> vectors(args);
    for_rows(n, widest, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (int s = 0; s < args.space_count; ++s) {
        const SpaceRange range = ranges[static_cast<std::size_t>(s)];
        const std::int64_t from = std::max<std::int64_t>(0, begin - range.base), to = std::min(range.n, end - range.base);
        if (from < to && !(args.targets[s].rows.empty() && args.targets[s].table.empty()))
          reduce_range(args, s, range.base, from, to, vectors);
      }
    });
  });
}

}  // namespace expctr::cpu
