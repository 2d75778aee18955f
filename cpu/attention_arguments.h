// What the attention kernels check and look up before they compute: shapes, offsets of packed sequences, which keys a query sees.
#pragma once

#include "base/kernels/attention.h"
#include "cpu/shape_check.h"

namespace expctr::cpu {

inline void check_offsets(const char* kernel, const View& offsets, std::int64_t tokens) {
  require_arguments(offsets.dtype == DType::i32 && offsets.rank == 1 && offsets.size() >= 1, kernel, "offsets are i32 [sequences + 1]",
                    {{"offsets", offsets}});
  const std::int32_t* o = offsets.as<std::int32_t>();
  bool ordered = o[0] == 0 && o[offsets.size() - 1] == tokens;
  for (std::int64_t s = 1; s < offsets.size(); ++s) ordered = ordered && o[s] >= o[s - 1];
  require_arguments(ordered, kernel, "offsets rise from 0 to the number of tokens", {{"offsets", offsets}});
}

inline void check_shape(const char* kernel, const AttentionShape& shape) {
  if (shape.heads < 1 || shape.kv_heads < 1 || shape.head_dim < 1 || shape.heads % shape.kv_heads != 0)
    throw ShapeError(std::string(kernel) + ": " + std::to_string(shape.heads) + " heads do not divide among " +
                         std::to_string(shape.kv_heads) + " key-value heads",
                     "heads is a multiple of kv_heads");
  if (shape.window < 0 || (shape.window > 0 && !shape.causal))
    throw ShapeError(std::string(kernel) + ": a window of " + std::to_string(shape.window) + " keys",
                     "a window is at least 1 (0: none) and needs causal attention");
}

inline bool is_matrix(const View& view, DType dtype, std::int64_t rows, std::int64_t width) {
  return view.dtype == dtype && view.rows() == rows && view.width() == width;
}

/// The packed sequences of AttentionForward and AttentionBackward, checked.
struct PackedSequences {
  const std::int32_t *query_offsets, *key_offsets, *lengths, *prefixes;
  std::int64_t count;
  bool causal;
  int window;

  template <class Args>
  PackedSequences(const char* kernel, const Args& args)
      : query_offsets(args.sequence_offsets.template as<std::int32_t>()),
        key_offsets(args.keys.offsets.empty() ? query_offsets : args.keys.offsets.template as<std::int32_t>()),
        lengths(args.keys.lengths.template as<std::int32_t>()),
        prefixes(args.keys.prefixes.template as<std::int32_t>()),
        count(args.sequence_offsets.size() - 1),
        causal(args.shape.causal),
        window(args.shape.window) {
    check_shape(kernel, args.shape);
    check_offsets(kernel, args.sequence_offsets, args.q.rows());
    check_offsets(kernel, args.keys.offsets.empty() ? args.sequence_offsets : args.keys.offsets, args.k.rows());
    const auto one_per_sequence = [&](const View& view, std::int64_t expected) {
      return view.empty() || (view.dtype == DType::i32 && view.size() == expected);
    };
    require_arguments(one_per_sequence(args.keys.offsets, count + 1) && one_per_sequence(args.keys.lengths, count) &&
                          one_per_sequence(args.keys.prefixes, count),
                      kernel, "key offsets are i32 [sequences + 1], key lengths and prefix lengths i32 [sequences]",
                      {{"sequence_offsets", args.sequence_offsets},
                       {"key offsets", args.keys.offsets},
                       {"key lengths", args.keys.lengths},
                       {"prefix lengths", args.keys.prefixes}});
    for (std::int64_t s = 0; s < count; ++s)
      require_arguments(
          (!lengths || (lengths[s] >= 0 && lengths[s] <= key_offsets[s + 1] - key_offsets[s])) && (!prefixes || prefixes[s] >= 0), kernel,
          "a key length lies between 0 and the sequence's keys, a prefix length is not negative",
          {{"key lengths", args.keys.lengths}, {"prefix lengths", args.keys.prefixes}});
  }

  KeyRange range(std::int64_t s) const { return key_range(query_offsets, key_offsets, lengths, prefixes, s, causal, window); }
};

}  // namespace expctr::cpu
