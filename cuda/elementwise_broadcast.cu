// Elementwise operations whose operands are broadcast, and their gradients. Forward, and backward where an operand is not repeated: every
// operand is read once, the result written once, 4 or 2 bytes an element; a thread keeps an operand that is repeated along the rows for up
// to 16 of them. Gradients of repeated operands are sums in a fixed order: down the rows (cuda/columns.cuh), along them, or, where the kept
// and the summed axes alternate, an element at a time (cuda/reduction.cuh). All are bound by memory.
#include "base/kernels/elementwise.h"
#include "base/scalar_math.h"
#include "cuda/broadcast.cuh"
#include "cuda/reduction.cuh"

namespace expctr::cuda {

namespace {

struct EvaluateBinary {
  Binary function;
  template <int N>
  __device__ __forceinline__ void apply(const float (&in)[2][N], float (&out)[1][N]) const {
    scalar::with_binary(function, [&](auto tag) {
#pragma unroll
      for (int i = 0; i < N; ++i) out[0][i] = scalar::evaluate(tag.value, in[0][i], in[1][i]);
    });
  }
};

/// dy, the operand itself, the other operand -> the operand's gradient before summing.
struct BinaryPartial {
  Binary function;
  bool of_a;
  template <int N>
  __device__ __forceinline__ void apply(const float (&in)[3][N], float (&out)[1][N]) const {
    scalar::with_binary(function, [&](auto tag) {
      if (of_a) {
#pragma unroll
        for (int i = 0; i < N; ++i) out[0][i] = scalar::partial(tag.value, true, in[0][i], in[1][i], in[2][i]);
      } else {
#pragma unroll
        for (int i = 0; i < N; ++i) out[0][i] = scalar::partial(tag.value, false, in[0][i], in[1][i], in[2][i]);
      }
    });
  }
};

struct Choose {
  __device__ void operator()(const float (&in)[3], float (&out)[1]) const { out[0] = in[0] != 0.0f ? in[1] : in[2]; }
};

/// dy, mask -> dy where the mask is set (or, for the second operand, where it is not).
struct ChosenPartial {
  bool of_a;
  __device__ void operator()(const float (&in)[2], float (&out)[1]) const { out[0] = (in[1] != 0.0f) == of_a ? in[0] : 0.0f; }
};

template <int K, class S>
__device__ __forceinline__ void load_operand(const S* from, bool moves, float (&to)[K]) {
  if (moves) {
    load_packet(from, to);
  } else {
    const float value = widen(*from);
#pragma unroll
    for (int i = 0; i < K; ++i) to[i] = value;
  }
}

template <int K, class S>
struct GradientOperands {
  const S* at[K];  ///< null: absent, counts as 0
  std::int64_t stride[3][K];
};

/// Sums down the rows of [batch, rows, width]: strides are those of batch, row and column. Operands without a row are kept.
template <int K, class S, class F>
struct ColumnGradient {
  static constexpr int row_values = 0;
  F f;
  GradientOperands<K, S> operands;
  template <int N>
  struct Columns {
    float kept[K][N];
  };
  __device__ __forceinline__ bool keeps(int k) const { return operands.stride[0][k] == 0 && operands.stride[1][k] == 0; }
  template <int N>
  __device__ __forceinline__ void begin(std::int64_t column, Columns<N>& columns) const {
#pragma unroll
    for (int k = 0; k < K; ++k) {
#pragma unroll
      for (int i = 0; i < N; ++i) columns.kept[k][i] = 0.0f;
      if (operands.at[k] != nullptr && keeps(k))
        load_operand(operands.at[k] + column * operands.stride[2][k], operands.stride[2][k] != 0, columns.kept[k]);
    }
  }
  template <int N>
  __device__ __forceinline__ void add(const Columns<N>& columns, std::int64_t batch, std::int64_t row, std::int64_t column, const float*,
                                      float (&sums)[1][N]) const {
    float in[K][N], out[1][N];
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (operands.at[k] == nullptr || keeps(k)) {
#pragma unroll
        for (int i = 0; i < N; ++i) in[k][i] = columns.kept[k][i];
      } else {
        const std::int64_t at = batch * operands.stride[0][k] + row * operands.stride[1][k] + column * operands.stride[2][k];
        load_operand(operands.at[k] + at, operands.stride[2][k] != 0, in[k]);
      }
    }
    apply_packet(f, in, out);
#pragma unroll
    for (int i = 0; i < N; ++i) sums[0][i] += out[0][i];
  }
};

/// Sums along the rows of [outputs, reduced]: strides are those of output and term.
template <int K, class S, class F>
struct RowGradient {
  F f;
  GradientOperands<K, S> operands;
  template <int N>
  __device__ __forceinline__ void add(std::int64_t output, std::int64_t r, float (&sums)[1][N]) const {
    float in[K][N], out[1][N];
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (operands.at[k] == nullptr) {
#pragma unroll
        for (int i = 0; i < N; ++i) in[k][i] = 0.0f;
      } else {
        load_operand(operands.at[k] + output * operands.stride[0][k] + r * operands.stride[1][k], operands.stride[1][k] != 0, in[k]);
      }
    }
    apply_packet(f, in, out);
#pragma unroll
    for (int i = 0; i < N; ++i) sums[0][i] += out[0][i];
  }
};

/// Any axes: those the operand keeps, then those it is summed over, outermost first.
template <int K, class S, class F>
struct AnyGradient {
  F f;
  Pointers<const S, K> operands;
  Broadcast<K> kept, reduced;
  __device__ __forceinline__ void operator()(std::int64_t output, std::int64_t r, float (&sums)[1]) const {
    std::int64_t at[K] = {};
    kept.add_offsets(kept.rank, output, at);
    reduced.add_offsets(reduced.rank, r, at);
    float in[K][1], out[1][1];
#pragma unroll
    for (int k = 0; k < K; ++k) in[k][0] = operands.at[k] == nullptr ? 0.0f : widen(operands.at[k][at[k]]);
    apply_packet(f, in, out);
    sums[0] += out[0][0];
  }
};

template <class S>
struct AddInto {
  S* y;
  __device__ void operator()(std::int64_t output, const float (&sums)[1]) const { store_element(y + output, widen(y[output]) + sums[0]); }
  template <int N>
  __device__ void packet(std::int64_t output, const float (&sums)[1][N]) const {
    float old[N];
    load_packet(y + output, old);
#pragma unroll
    for (int i = 0; i < N; ++i) old[i] += sums[0][i];
    store_packet(y + output, old);
  }
};

enum class SumForm { none, columns, rows, any };

/// How an operand's gradient comes about: axes of dy with the gradient (0) and the operands (1 ..) along them.
template <int K>
struct GradientPlan {
  SumForm form = SumForm::none;
  Broadcast<K + 1> axes;
  ColumnPlan columns;
  RowPlan rows;
  ReductionPlan any;
  std::size_t bytes() const {
    return form == SumForm::columns ? columns.bytes(1) : form == SumForm::rows ? rows.bytes(1) : form == SumForm::any ? any.bytes(1) : 0;
  }
};

/// `operands` begins with dy. No sums where the gradient is absent, empty or not repeated.
template <int K>
GradientPlan<K> plan_gradient(const View& gradient, const View (&operands)[K]) {
  GradientPlan<K> plan;
  const View& dy = operands[0];
  if (gradient.empty() || gradient.size() == 0 || gradient.size() == dy.size()) return plan;
  View all[K + 1] = {gradient};
  std::copy(operands, operands + K, all + 1);
  plan.axes = make_broadcast(dy, all);
  const Broadcast<K + 1>& axes = plan.axes;
  const int rank = axes.rank;
  const bool kept[3] = {axes.stride[0][0] != 0, axes.stride[0][1] != 0, axes.stride[0][2] != 0};
  if (dy.size() != 0 && rank == 2 && !kept[0] && kept[1]) {
    plan.form = SumForm::columns;
    plan.columns = plan_columns(axes.extent[0], axes.extent[1]);
  } else if (dy.size() != 0 && rank == 3 && kept[0] && !kept[1] && kept[2] && axes.extent[0] < 65536) {
    plan.form = SumForm::columns;
    plan.columns = plan_columns(axes.extent[1], axes.extent[2], axes.extent[0]);
  } else if (dy.size() != 0 && ((rank == 1 && !kept[0]) || (rank == 2 && kept[0] && !kept[1]))) {
    plan.form = SumForm::rows;
    plan.rows = plan_rows(rank == 1 ? 1 : axes.extent[0], axes.extent[rank - 1]);
  } else {
    plan.form = SumForm::any;
    plan.any = plan_reduction(gradient.size(), dy.size() / gradient.size());
  }
  return plan;
}

template <int K, class S, class F>
void sum_gradient(const char* name, F f, const GradientPlan<K>& plan, const View& gradient, const View (&operands)[K], void* scratch,
                  Stream stream) {
  const Broadcast<K + 1>& axes = plan.axes;
  const int rank = axes.rank, last = rank - 1;
  const AddInto<S> store{gradient.as<S>()};
  if (plan.form == SumForm::any) {
    AnyGradient<K, S, F> term{f, {}, {}, {}};
    for (int axis = 0; axis < rank; ++axis) {
      Broadcast<K>& part = axes.stride[0][axis] != 0 ? term.kept : term.reduced;
      part.extent[part.rank] = axes.extent[axis];
      for (int k = 0; k < K; ++k) part.stride[k][part.rank] = axes.stride[k + 1][axis];
      ++part.rank;
    }
    for (int k = 0; k < K; ++k) term.operands.at[k] = operands[k].template as<const S>();
    if (axes.stride[0][last] == 0)
      reduce<1, true>(name, plan.any, term, store, scratch, stream);
    else
      reduce<1, false>(name, plan.any, term, store, scratch, stream);
    return;
  }
  GradientOperands<K, S> given;
  bool vector = axes.extent[last] % packet_size<S> == 0 && aligned16(gradient.data);
  const int leading = plan.form == SumForm::columns ? 2 : 1;  // strides of missing leading axes are 0
  for (int k = 0; k < K; ++k) {
    given.at[k] = operands[k].template as<const S>();
    for (int i = 0; i <= leading; ++i) {
      const int axis = i + rank - (leading + 1);
      given.stride[i][k] = axis < 0 ? 0 : axes.stride[k + 1][axis];
      if (i < leading) vector = vector && (axes.stride[k + 1][last] == 0 || given.stride[i][k] % packet_size<S> == 0);
    }
    vector = vector && (axes.stride[k + 1][last] == 0 || aligned16(given.at[k]));
  }
  const auto launch = [&](auto packet) {
    constexpr int N = decltype(packet)::value;
    if (plan.form == SumForm::columns)
      column_sums<N, 1>(name, plan.columns, ColumnGradient<K, S, F>{f, given}, store, scratch, stream);
    else
      row_sums<N, 1>(name, plan.rows, RowGradient<K, S, F>{f, given}, store, scratch, stream);
  };
  if (vector)
    launch(std::integral_constant<int, packet_size<S>>{});
  else
    launch(std::integral_constant<int, 1>{});
}

/// gradient += f(operands), summed over the axes along which it is repeated in dy, the first operand.
template <int K, class F>
void operand_gradient(const char* name, DType dtype, F f, const View& gradient, const View (&operands)[K], const View& scratch,
                      Stream stream) {
  if (gradient.empty() || gradient.size() == 0) return;
  if (gradient.size() == operands[0].size()) return broadcast<true>(name, dtype, f, operands, gradient, stream);
  const GradientPlan<K> plan = plan_gradient(gradient, operands);
  dispatch_activation(dtype,
                      [&](auto storage) { sum_gradient<K, decltype(storage)>(name, f, plan, gradient, operands, scratch.data, stream); });
}

/// dy and what else the gradient of a (or b) reads.
struct BinaryOperands {
  View at[3];
  BinaryOperands(const BinaryBackward& args, bool of_a) : at{args.dy, of_a ? args.a : args.b, of_a ? args.b : args.a} {
    if (!scalar::gradient_reads_own(args.function, of_a)) at[1] = View{};
    if (!scalar::gradient_reads_other(args.function)) at[2] = View{};
  }
};

struct WhereOperands {
  View at[2];
  explicit WhereOperands(const WhereBackward& args) : at{args.dy, args.mask} {}
};

}  // namespace

template <>
void run(const BinaryForward& args, Stream stream) {
  const DType dtype = require_activations("binary", {&args.a, &args.b, &args.y});
  const std::int64_t n = args.y.size();
  const EvaluateBinary f{args.function};
  if (args.a.size() == n && args.b.size() == n) return map("binary", dtype, f, n, {args.a, args.b}, {args.y}, stream);
  broadcast<false>("binary", dtype, f, {args.a, args.b}, args.y, stream);
}

template <>
std::size_t scratch_bytes(const BinaryBackward& args) {
  if (!scalar::has_gradient(args.function)) return 0;
  // The two gradients are computed one after the other in the same memory.
  return std::max(plan_gradient(args.da, BinaryOperands(args, true).at).bytes(),
                  plan_gradient(args.db, BinaryOperands(args, false).at).bytes());
}

template <>
void run(const BinaryBackward& args, Stream stream) {
  const DType dtype = require_activations("binary_backward", {&args.a, &args.b, &args.dy, &args.da, &args.db});
  require_scratch("binary_backward", args.scratch, scratch_bytes(args));
  if (!scalar::has_gradient(args.function)) return;
  operand_gradient("binary_backward", dtype, BinaryPartial{args.function, true}, args.da, BinaryOperands(args, true).at, args.scratch,
                   stream);
  operand_gradient("binary_backward", dtype, BinaryPartial{args.function, false}, args.db, BinaryOperands(args, false).at, args.scratch,
                   stream);
}

template <>
void run(const WhereForward& args, Stream stream) {
  const DType dtype = require_activations("where", {&args.mask, &args.a, &args.b, &args.y});
  broadcast<false>("where", dtype, Choose{}, {args.mask, args.a, args.b}, args.y, stream);
}

template <>
std::size_t scratch_bytes(const WhereBackward& args) {
  const WhereOperands operands(args);
  return std::max(plan_gradient(args.da, operands.at).bytes(), plan_gradient(args.db, operands.at).bytes());
}

template <>
void run(const WhereBackward& args, Stream stream) {
  const DType dtype = require_activations("where_backward", {&args.mask, &args.dy, &args.da, &args.db});
  require_scratch("where_backward", args.scratch, scratch_bytes(args));
  const WhereOperands operands(args);
  operand_gradient("where_backward", dtype, ChosenPartial{true}, args.da, operands.at, args.scratch, stream);
  operand_gradient("where_backward", dtype, ChosenPartial{false}, args.db, operands.at, args.scratch, stream);
}

}  // namespace expctr::cuda
