// Matrix products between dense operands.
// float: A is packed into register tiles, B panel by panel into [k][32]; cpu/gemm_kernel.h multiplies. Few rows do not pay for packing B:
// it is read where it lies. 2 M N K operations, bound by the multiply-add units for M of a tile or more, by reading B below that. k is cut into chunks whose partial sums pass through c: a store and
// a load change no bit. double: a plain loop with the same order, for tests. alpha multiplies the elements of a (rounded) before the
// products; accumulate starts the sum at c.
#include "base/kernels/matmul.h"

#include <algorithm>
#include <cmath>

#include "base/scalar_math.h"
#include "cpu/kernel_table.h"
#include "cpu/matmul_pack.h"
#include "cpu/run.h"
#include "cpu/shape_check.h"
#include "cpu/thread_pool.h"

namespace expctr::cpu {
namespace {

constexpr std::int64_t k_chunk = 1024;       // a panel chunk of B is 128 KB: it stays in the second-level cache
constexpr std::int64_t row_chunk = 96 * 12;  // bounds the packed A

struct Problem {
  std::int64_t batch, m, n, k;
  std::int64_t a_row, a_k, b_k, b_column;  ///< strides in elements
  std::int64_t a_batch, b_batch;           ///< 0: one matrix for all batches
};

Problem problem_of(const MatMul& args) {
  const View &a = args.a, &b = args.b, &c = args.c;
  const auto check = [&](bool holds, const char* rule) { require_arguments(holds, "MatMul", rule, {{"a", a}, {"b", b}, {"c", c}}); };
  check(is_floating(c.dtype) && a.dtype == c.dtype && b.dtype == c.dtype, "a, b and c are all f32 or all f64");
  check(a.rank == b.rank && b.rank == c.rank && (c.rank == 2 || c.rank == 3), "a, b and c have rank 2, or all rank 3");
  const int r = c.rank - 2;
  Problem p{};
  p.batch = r ? c.shape[0] : 1;
  p.m = c.shape[r];
  p.n = c.shape[r + 1];
  p.k = args.transpose_a ? a.shape[r] : a.shape[r + 1];
  const auto batched = [&](const View& view) { return view.shape[0] == p.batch || view.shape[0] == 1; };
  check(!r || (batched(a) && batched(b)), "equal batch extents, or 1 to share a matrix");
  check((args.transpose_a ? a.shape[r + 1] : a.shape[r]) == p.m, "op(a) has as many rows as c");
  check((args.transpose_b ? b.shape[r] : b.shape[r + 1]) == p.n, "op(b) has as many columns as c");
  check((args.transpose_b ? b.shape[r + 1] : b.shape[r]) == p.k, "op(a) has as many columns as op(b) rows");
  p.a_row = args.transpose_a ? 1 : p.k;
  p.a_k = args.transpose_a ? p.m : 1;
  p.b_k = args.transpose_b ? 1 : p.n;
  p.b_column = args.transpose_b ? p.k : 1;
  p.a_batch = r && a.shape[0] == 1 ? 0 : p.m * p.k;
  p.b_batch = r && b.shape[0] == 1 ? 0 : p.k * p.n;
  check(args.bias.empty() || (args.bias.dtype == c.dtype && args.bias.size() == p.n), "bias is like a row of c");
  check(args.before_activation.empty() || (args.before_activation.dtype == c.dtype && args.before_activation.size() == c.size()),
        "before_activation is like c");
  return p;
}

/// One matrix of the batch.
void multiply(const MatMul& args, const Problem& p, std::int64_t batch) {
  const KernelTable& table = kernels();
  const std::int64_t panels = (p.n + panel_width - 1) / panel_width;
  const float alpha = static_cast<float>(args.alpha);
  float* packed = reinterpret_cast<float*>(thread_scratch(sizeof(float) * std::min(p.m, row_chunk) * std::min(p.k, k_chunk), 1).data());
  const float* a = args.a.as<float>() + batch * p.a_batch;
  const float* b = args.b.as<float>() + batch * p.b_batch;
  float* c = args.c.as<float>() + batch * p.m * p.n;
  for (std::int64_t m0 = 0; m0 < p.m; m0 += row_chunk) {
    const std::int64_t rows = std::min(row_chunk, p.m - m0);
    for (std::int64_t k0 = 0; k0 < p.k; k0 += k_chunk) {
      const std::int64_t count = std::min(k_chunk, p.k - k0);
      pack_rows(table, a + m0 * p.a_row + k0 * p.a_k, p.a_row, p.a_k, rows, count, alpha, 0, packed);
      // Few panels: rows are divided as well, and each part packs the panel again.
      const std::int64_t part = panels >= 8 || rows < 96 ? rows : 96, parts = (rows + part - 1) / part;
      const std::int64_t grain = std::max<std::int64_t>(1, 32768 / std::max<std::int64_t>(1, part * count));
      parallel_for(panels * parts, grain, [&](std::int64_t begin, std::int64_t end) {
        float* panel = reinterpret_cast<float*>(thread_scratch(sizeof(float) * panel_width * count).data());
        for (std::int64_t i = begin; i < end; ++i) {
          const std::int64_t n0 = i / parts * panel_width, r0 = i % parts * part;
          const int columns = static_cast<int>(std::min<std::int64_t>(panel_width, p.n - n0));
          const float* source = b + k0 * p.b_k + n0 * p.b_column;
          float* out = c + (m0 + r0) * p.n + n0;
          const bool load = args.accumulate || k0 > 0;
          if (p.b_k == 1 && p.m <= table.direct_rows) {
            table.direct_panel(static_cast<int>(rows), count, packed, source, p.b_column, out, p.n, columns, load);
          } else if (p.b_column == 1 && p.m <= table.tile_rows && columns == panel_width) {
            table.gemm_panel(rows, count, packed, source, p.b_k, out, p.n, columns, nullptr, load);
          } else {
            pack_panel(table, source, p.b_k, p.b_column, count, columns, panel);
            table.gemm_panel(std::min(part, rows - r0), count, packed + r0 * count, panel, panel_width, out, p.n, columns, nullptr, load);
          }
        }
      });
    }
  }
}

void multiply_batch(const MatMul& args, const Problem& p) {
  // Small matrices are divided among the threads whole, large ones in turn by their panels.
  const std::int64_t work = p.m * p.n * p.k, grain = work < (1 << 22) ? std::max<std::int64_t>(1, (1 << 17) / work) : p.batch;
  parallel_for(p.batch, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t batch = begin; batch < end; ++batch) multiply(args, p, batch);
  });
}

void multiply_double(const MatMul& args, const Problem& p) {
  const std::int64_t rows = p.batch * p.m;
  const std::int64_t grain = std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, p.n * p.k));
  parallel_for(rows, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t batch = row / p.m, m = row % p.m;
      const double* a = args.a.as<double>() + batch * p.a_batch + m * p.a_row;
      const double* b = args.b.as<double>() + batch * p.b_batch;
      double* c = args.c.as<double>() + row * p.n;
      for (std::int64_t n0 = 0; n0 < p.n; n0 += 8) {
        const int columns = static_cast<int>(std::min<std::int64_t>(8, p.n - n0));
        double sum[8] = {};
        if (args.accumulate) std::copy_n(c + n0, columns, sum);
        for (std::int64_t k = 0; k < p.k; ++k) {
          const double factor = a[k * p.a_k] * args.alpha;
          for (int i = 0; i < columns; ++i) sum[i] = std::fma(factor, b[k * p.b_k + (n0 + i) * p.b_column], sum[i]);
        }
        std::copy_n(sum, columns, c + n0);
      }
    }
  });
}

template <class T>
T activated(Activation activation, T x) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::relu: return scalar::evaluate(Unary::relu, x);
    case Activation::gelu_tanh: return scalar::evaluate(Unary::gelu_tanh, x);
    case Activation::gelu: return scalar::evaluate(Unary::gelu, x);
  }
  return x;
}

/// Bias and activation in one pass over the product.
template <class T>
void finish(const MatMul& args, const Problem& p) {
  const T* bias = args.bias.as<T>();
  parallel_for(p.batch * p.m, std::max<std::int64_t>(1, 8192 / p.n), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      T* c = args.c.as<T>() + row * p.n;
      if (bias != nullptr)
        for (std::int64_t i = 0; i < p.n; ++i) c[i] += bias[i];
      if (!args.before_activation.empty()) std::copy_n(c, p.n, args.before_activation.as<T>() + row * p.n);
      if (args.activation != Activation::none)
        for (std::int64_t i = 0; i < p.n; ++i) c[i] = activated(args.activation, c[i]);
    }
  });
}

}  // namespace

template <>
std::size_t scratch_bytes(const MatMul&) {
  return 0;
}

template <>
void run(const MatMul& args, Stream) {
  const Problem p = problem_of(args);
  if (p.batch * p.m * p.n == 0) return;
  if (p.k == 0) {
    if (!args.accumulate) std::fill_n(static_cast<char*>(args.c.data), dtype_bytes(args.c.dtype, args.c.size()), 0);
  } else if (args.c.dtype == DType::f32) {
    multiply_batch(args, p);
  } else {
    multiply_double(args, p);
  }
  if (args.bias.empty() && args.activation == Activation::none && args.before_activation.empty()) return;
  args.c.dtype == DType::f32 ? finish<float>(args, p) : finish<double>(args, p);
}

}  // namespace expctr::cpu
