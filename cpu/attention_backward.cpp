// Gradient of attention over packed sequences. One piece of work is a (sequence, key-value head, range of keys): its dk and dv add over its
// queries in ascending order. A sequence's keys are one range up to 511, 2 up to 2,047, then 4; where there are several, each
// has its own part of dq in scratch, and the parts are added in order. So the work splits well among threads and is the same for any
// number of them. 10 visible head_dim operations a query row.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/attention_arguments.h"
#include "cpu/attention_backward_kernel.h"
#include "cpu/kernel_table.h"
#include "cpu/run.h"
#include "cpu/thread_pool.h"

namespace expctr::cpu {
namespace {

/// Each range packs the queries that see it again: 2 % of the work with two ranges of 512 keys.
int ranges_of(std::int64_t keys) { return keys < 512 ? 1 : keys < 2048 ? 2 : 4; }

/// First key of range i of n: whole blocks, as much of the visible area in each as they allow.
std::int64_t range_start(const KeyRange& range, int i, int n) {
  if (i >= n) return range.keys;
  // Causal without a prefix: keys x and later are seen in proportion to (1 - x)^2.
  const double place = range.causal && range.window == 0 && range.shift >= 0 ? 1.0 - std::sqrt(1.0 - static_cast<double>(i) / n)
                                                                             : static_cast<double>(i) / n;
  return static_cast<std::int64_t>(place * static_cast<double>(range.keys)) / attention_block * attention_block;
}

struct Piece {
  std::int64_t sequence, kv_head, first_key, end_key;
  int range;  ///< of the sequence's
};

void backward_float(const AttentionBackward& args, const PackedSequences& sequences) {
  const AttentionShape& shape = args.shape;
  const std::int64_t d = shape.head_dim, q_width = shape.heads * d, k_width = shape.kv_heads * d;
  const int group = shape.heads / shape.kv_heads;
  std::vector<Piece> pieces;
  for (std::int64_t s = 0; s < sequences.count; ++s) {
    const KeyRange range = sequences.range(s);
    const int ranges = ranges_of(range.keys);
    for (std::int64_t kv = 0; kv < shape.kv_heads; ++kv)
      for (int i = 0; i < ranges; ++i) {
        const std::int64_t first = range_start(range, i, ranges), end = range_start(range, i + 1, ranges);
        if (end > first && range.queries > 0) pieces.push_back({s, kv, first, end, i});
      }
  }
  // Part i > 0 of dq of query row (token, head): partial + ((i - 1) tokens heads + kv_head's rows before it) d; rows of a key-value head
  // of a sequence lie together.
  float* partial = args.scratch.as<float>();
  const auto partial_of = [&](std::int64_t s, std::int64_t kv, int range) {
    const std::int64_t start = sequences.query_offsets[s], queries = sequences.query_offsets[s + 1] - start;
    return partial + ((range - 1) * args.q.rows() * shape.heads + start * shape.heads + kv * group * queries) * d;
  };
  parallel_for(static_cast<std::int64_t>(pieces.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const Piece& piece = pieces[static_cast<std::size_t>(i)];
      const std::int64_t start = sequences.query_offsets[piece.sequence], q_offset = start * q_width + piece.kv_head * group * d,
                         kv_offset = sequences.key_offsets[piece.sequence] * k_width + piece.kv_head * d;
      AttentionGradient gradient{};
      gradient.group = group;
      gradient.heads = shape.heads;
      gradient.head_dim = shape.head_dim;
      gradient.scale = static_cast<float>(shape.scale);
      gradient.range = sequences.range(piece.sequence);
      gradient.first_key = piece.first_key;
      gradient.end_key = piece.end_key;
      gradient.q_stride = q_width;
      gradient.kv_stride = k_width;
      gradient.q = args.q.as<float>() + q_offset;
      gradient.y = args.y.as<float>() + q_offset;
      gradient.dy = args.dy.as<float>() + q_offset;
      gradient.dq = args.dq.empty() ? nullptr : args.dq.as<float>() + q_offset;
      if (piece.range > 0) gradient.partial_dq = partial_of(piece.sequence, piece.kv_head, piece.range);
      gradient.log_sum_exp = args.log_sum_exp.as<float>() + start * shape.heads + piece.kv_head * group;
      gradient.keys = args.k.as<float>() + kv_offset;
      gradient.values = args.v.as<float>() + kv_offset;
      gradient.dk = args.dk.empty() ? nullptr : args.dk.as<float>() + kv_offset;
      gradient.dv = args.dv.empty() ? nullptr : args.dv.as<float>() + kv_offset;
      const GradientRows rows = gradient_rows(gradient.range, group, piece.first_key, piece.end_key);
      const std::size_t bytes = sizeof(float) * attention_gradient_floats(rows.end - rows.begin, shape.head_dim);
      kernels().attention_gradient(gradient, reinterpret_cast<float*>(thread_scratch(bytes).data()));
    }
  });
  if (args.dq.empty()) return;
  parallel_for(sequences.count * shape.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t s = i / shape.kv_heads, kv = i % shape.kv_heads;
      const KeyRange range = sequences.range(s);
      const int ranges = ranges_of(range.keys);
      float* dq = args.dq.as<float>() + sequences.query_offsets[s] * q_width + kv * group * d;
      for (int part = 1; part < ranges; ++part) {
        const std::int64_t first_key = range_start(range, part, ranges), end_key = range_start(range, part + 1, ranges);
        if (end_key <= first_key) continue;
        const GradientRows rows = gradient_rows(range, group, first_key, end_key);
        const float* from = partial_of(s, kv, part);
        for (std::int64_t r = rows.begin; r < rows.end; ++r)
          for (std::int64_t k = 0; k < d; ++k) dq[r / group * q_width + r % group * d + k] += from[r * d + k];
      }
    }
  });
}

/// p = exp(scale q k - log_sum_exp); dv += p dy; ds = p (dy v - dy y) scale; dq += ds k; dk += ds q.
void backward_double(const AttentionBackward& args, const PackedSequences& sequences) {
  const AttentionShape& shape = args.shape;
  const std::int64_t d = shape.head_dim, q_stride = shape.heads * d, k_stride = shape.kv_heads * d;
  parallel_for(sequences.count * shape.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t piece = begin; piece < end; ++piece) {
      const std::int64_t s = piece / shape.kv_heads, kv = piece % shape.kv_heads;
      const int group = shape.heads / shape.kv_heads;
      const std::int64_t start = sequences.query_offsets[s], kv_offset = sequences.key_offsets[s] * k_stride + kv * d;
      const KeyRange range = sequences.range(s);
      const double *keys = args.k.as<double>() + kv_offset, *values = args.v.as<double>() + kv_offset;
      double* dk = args.dk.empty() ? nullptr : args.dk.as<double>() + kv_offset;
      double* dv = args.dv.empty() ? nullptr : args.dv.as<double>() + kv_offset;
      for (int t = 0; t < range.queries; ++t) {
        for (std::int64_t head = kv * group; head < (kv + 1) * group; ++head) {
          const std::int64_t q_offset = (start + t) * q_stride + head * d;
          const double *q = args.q.as<double>() + q_offset, *y = args.y.as<double>() + q_offset, *dy = args.dy.as<double>() + q_offset;
          double* dq = args.dq.empty() ? nullptr : args.dq.as<double>() + q_offset;
          const double log_sum_exp = args.log_sum_exp.as<double>()[(start + t) * shape.heads + head];
          double dy_y = 0;
          for (std::int64_t i = 0; i < d; ++i) dy_y += dy[i] * y[i];
          for (std::int64_t j = range.first(t); j < range.end(t); ++j) {
            const double *key = keys + j * k_stride, *value = values + j * k_stride;
            double dot = 0, dy_v = 0;
            for (std::int64_t i = 0; i < d; ++i) {
              dot += q[i] * key[i];
              dy_v += dy[i] * value[i];
            }
            const double p = std::exp(shape.scale * dot - log_sum_exp), ds = p * (dy_v - dy_y) * shape.scale;
            for (std::int64_t i = 0; i < d; ++i) {
              if (dv) dv[j * k_stride + i] += p * dy[i];
              if (dq) dq[i] += ds * key[i];
              if (dk) dk[j * k_stride + i] += ds * q[i];
            }
          }
        }
      }
    }
  });
}

}  // namespace

template <>
std::size_t scratch_bytes(const AttentionBackward& args) {
  if (args.q.dtype != DType::f32 || args.dq.empty()) return 0;
  const View& offsets = args.keys.offsets.empty() ? args.sequence_offsets : args.keys.offsets;
  std::int64_t most = 0;
  for (std::int64_t s = 0; s + 1 < offsets.size(); ++s)
    most = std::max<std::int64_t>(most, offsets.as<std::int32_t>()[s + 1] - offsets.as<std::int32_t>()[s]);
  return sizeof(float) * static_cast<std::size_t>((ranges_of(most) - 1) * args.q.size());
}

template <>
void run(const AttentionBackward& args, Stream) {
  const AttentionShape& shape = args.shape;
  const PackedSequences sequences("AttentionBackward", args);
  const std::int64_t tokens = args.q.rows(), key_tokens = args.k.rows();
  const std::int64_t q_width = static_cast<std::int64_t>(shape.heads) * shape.head_dim,
                     k_width = static_cast<std::int64_t>(shape.kv_heads) * shape.head_dim;
  const DType dtype = args.q.dtype;
  const auto optional = [&](const View& view, std::int64_t rows, std::int64_t width) {
    return view.empty() || is_matrix(view, dtype, rows, width);
  };
  require_arguments(
      (dtype == DType::f32 || dtype == DType::f64) && is_matrix(args.q, dtype, tokens, q_width) &&
          is_matrix(args.k, dtype, key_tokens, k_width) && is_matrix(args.v, dtype, key_tokens, k_width) &&
          is_matrix(args.y, dtype, tokens, q_width) && is_matrix(args.dy, dtype, tokens, q_width) &&
          is_matrix(args.log_sum_exp, dtype, tokens, shape.heads) && optional(args.dq, tokens, q_width) &&
          optional(args.dk, key_tokens, k_width) && optional(args.dv, key_tokens, k_width),
      "AttentionBackward",
      "q, y, dy, dq are [tokens, heads head_dim], k, v, dk, dv [key tokens, kv_heads head_dim], log_sum_exp [tokens, heads], one dtype",
      {{"q", args.q}, {"k", args.k}, {"v", args.v}, {"y", args.y}, {"dy", args.dy}, {"dq", args.dq}, {"dk", args.dk}, {"dv", args.dv}});
  require_arguments(view_bytes(args.scratch) >= scratch_bytes(args), "AttentionBackward", "scratch holds scratch_bytes(args)",
                    {{"scratch", args.scratch}});
  dtype == DType::f32 ? backward_float(args, sequences) : backward_double(args, sequences);
}

}  // namespace expctr::cpu
