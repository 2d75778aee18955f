#include "engine/ops/matmul.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/kernels/elementwise.h"
#include "engine/autograd/tape.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"
#include "engine/ops/layout.h"

namespace expctr {
namespace {

/// op(a) op(b) with its operands and result as the kernel wants them: all of rank 2, or all of rank 3.
struct Product {
  Tensor a, b;
  Shape shape;  ///< of the result
  DType dtype;
  bool transpose_a, transpose_b;
  double alpha;
};

Product product_of(const char* op, const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b, double alpha) {
  const auto storage = [](DType dtype) { return dtype == DType::f32 || dtype == DType::bf16; };
  if (!storage(a.dtype()) || !storage(b.dtype()) || !(a.device() == b.device())) require_same_place(op, a, b);
  const bool ranks = a.rank() >= 2 && a.rank() <= 3 && b.rank() >= 2 && b.rank() <= 3;
  if (!ranks || (a.rank() == 3 && b.rank() == 3 && a.dim(0) != b.dim(0) && a.dim(0) != 1 && b.dim(0) != 1)) {
    throw ShapeError(fmt::format("{}: {} times {}", op, a.shape().text(), b.shape().text()),
                     "both have rank 2 or 3; first extents of rank 3 are equal, or 1 to share a matrix");
  }
  const std::int64_t m = transpose_a ? a.dim(-1) : a.dim(-2), k = transpose_a ? a.dim(-2) : a.dim(-1);
  const std::int64_t kb = transpose_b ? b.dim(-1) : b.dim(-2), n = transpose_b ? b.dim(-2) : b.dim(-1);
  if (k != kb) {
    throw ShapeError(fmt::format("{}: {}{} times {}{}", op, a.shape().text(), transpose_a ? "^T" : "", b.shape().text(), transpose_b ? "^T" : ""),
                     "the inner extents must be equal");
  }
  Product p{a, b, Shape{m, n}, a.dtype() == DType::bf16 || b.dtype() == DType::bf16 ? DType::bf16 : a.dtype(), transpose_a, transpose_b, alpha};
  if (a.rank() == 2 && b.rank() == 2) return p;
  if (a.rank() == 2) p.a = a.reshape({1, a.dim(0), a.dim(1)});
  if (b.rank() == 2) p.b = b.reshape({1, b.dim(0), b.dim(1)});
  p.shape = Shape{p.a.dim(0) == 1 ? p.b.dim(0) : p.a.dim(0), m, n};
  return p;
}

/// d (the gradient of one operand) += alpha op(x) op(y), summed over batches where d is shared.
void accumulate(double alpha, bool transpose_x, bool transpose_y, const Tensor& x, const Tensor& y, const Tensor& d) {
  const std::int64_t batches = d.rank() == 3 ? std::max(x.dim(0), y.dim(0)) : 1;
  if (d.rank() == 2 || d.dim(0) == batches) {
    run(d.device(), MatMul{alpha, transpose_x, transpose_y, true, x, y, d});
    return;
  }
  const auto matrix = [](const Tensor& t, std::int64_t i) { return t.dim(0) == 1 ? t : t.slice_rows(i, 1); };
  for (std::int64_t i = 0; i < batches; ++i) run(d.device(), MatMul{alpha, transpose_x, transpose_y, true, matrix(x, i), matrix(y, i), d});
}

void backward(const Product& p, const Tensor& dz, const Tensor& da, const Tensor& db) {
  if (da.defined()) {
    // da = dz op(b)^T, or its transpose op(b) dz^T
    const Tensor d = da.reshape(p.a.shape());
    p.transpose_a ? accumulate(p.alpha, p.transpose_b, true, p.b, dz, d) : accumulate(p.alpha, false, !p.transpose_b, dz, p.b, d);
  }
  if (db.defined()) {
    const Tensor d = db.reshape(p.b.shape());
    p.transpose_b ? accumulate(p.alpha, true, p.transpose_a, dz, p.a, d) : accumulate(p.alpha, !p.transpose_a, false, p.a, dz, d);
  }
}

/// Batches times one shared matrix are one tall product.
bool folds(const Tensor& a, const Tensor& b, bool transpose_a) {
  return a.rank() == 3 && !transpose_a && (b.rank() == 2 || (b.rank() == 3 && b.dim(0) == 1 && a.dim(0) != 1));
}
Tensor folded(const Tensor& a) { return a.reshape({a.dim(0) * a.dim(1), a.dim(2)}); }
Tensor matrix_of(const Tensor& b) { return b.rank() == 2 ? b : b.reshape({b.dim(1), b.dim(2)}); }

Unary function_of(Activation activation) {
  switch (activation) {
    case Activation::gelu_tanh: return Unary::gelu_tanh;
    case Activation::gelu: return Unary::gelu;
    case Activation::relu:
    case Activation::none: break;
  }
  return Unary::relu;
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b, double alpha) {
  const OpScope scope("matmul", a, b);
  if (!scope.dense()) return matmul(dense(a), dense(b), transpose_a, transpose_b, alpha);
  const Product p = product_of("matmul", a, b, transpose_a, transpose_b, alpha);
  if (folds(a, b, transpose_a)) return matmul(folded(a), matrix_of(b), false, transpose_b, alpha).reshape(p.shape);
  Tensor y = Tensor::empty(p.shape, p.dtype, a.device());
  run(a.device(), MatMul{alpha, transpose_a, transpose_b, false, p.a, p.b, y});
  return record("matmul", y, {a, b}, [=](const Tensor& dy, const GradientSlots& d) { backward(p, dy, d[0], d[1]); });
}

Tensor matmul_bias(const Tensor& a, const Tensor& b, const Tensor& bias, Activation activation, bool transpose_a, bool transpose_b) {
  const OpScope scope("matmul_bias", a, b, bias);
  if (!scope.dense()) return matmul_bias(dense(a), dense(b), dense(bias), activation, transpose_a, transpose_b);
  const Product p = product_of("matmul_bias", a, b, transpose_a, transpose_b, 1.0);
  if (bias.defined()) require_shape("matmul_bias", "bias", bias, {p.shape[-1]}, "one value per column of the product");
  if (folds(a, b, transpose_a)) return matmul_bias(folded(a), matrix_of(b), bias, activation, false, transpose_b).reshape(p.shape);
  Tensor y = Tensor::empty(p.shape, p.dtype, a.device()), z;
  const bool trained = Tape::recording() && (a.requires_gradient() || b.requires_gradient() || (bias.defined() && bias.requires_gradient()));
  if (trained && (activation == Activation::gelu || activation == Activation::gelu_tanh)) z = y.empty_like();
  MatMul args{1.0, transpose_a, transpose_b, false, p.a, p.b, y};
  args.bias = bias;
  args.activation = activation;
  args.before_activation = z;
  run(a.device(), args);
  const Tensor kept = activation == Activation::relu ? y.detached() : z;
  return record("matmul_bias", y, {a, b, bias}, [=](const Tensor& dy, const GradientSlots& d) {
    Tensor dz = dy;
    if (activation != Activation::none) {
      // relu' is the same at y as at its argument.
      dz = Tensor::zeros(dy.shape(), dy.dtype(), dy.device());
      run(dy.device(), UnaryBackward{function_of(activation), kept, dy, dz});
    }
    backward(p, dz, d[0], d[1]);
    if (const Tensor dbias = d[2]; dbias.defined()) {
      if (dz.dtype() != dbias.dtype()) {  // a bias is f32 beside bf16 activations: its sum is not rounded to bf16
        const Tensor wide = Tensor::empty(dz.shape(), dbias.dtype(), dz.device());
        run(dy.device(), Convert{dz, wide});
        dz = wide;
      }
      run(dy.device(), BinaryBackward{Binary::add, dz, bias, dz, {}, dbias, {}});
    }
  });
}

}  // namespace expctr
