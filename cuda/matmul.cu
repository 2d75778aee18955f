// Dense products. One cuBLASLt call: 2 m n k FLOPs, float32 throughout (no TF32); see cuda/gemm.cu for what bounds it.
#include "base/kernels/matmul.h"
#include "cuda/gemm.h"
#include "cuda/launch.cuh"

namespace expctr::cuda {

template <>
void run(const MatMul& args, Stream stream) {
  require_f32("matmul", {&args.a, &args.b, &args.c});
  const View &a = args.a, &b = args.b, &c = args.c;
  const int rank = c.rank;
  if ((rank != 2 && rank != 3) || a.rank != rank || b.rank != rank)
    throw ShapeError("cuda: matmul takes operands of rank 2, or all of rank 3");
  Gemm product;
  product.batches = rank == 3 ? c.shape[0] : 1;
  product.m = c.shape[rank - 2];
  product.n = c.shape[rank - 1];
  product.k = args.transpose_a ? a.shape[rank - 2] : a.shape[rank - 1];
  product.transpose_a = args.transpose_a;
  product.transpose_b = args.transpose_b;
  product.a = a.data;
  product.b = b.data;
  product.c = c.data;
  product.alpha = static_cast<float>(args.alpha);
  product.beta = args.accumulate ? 1.0f : 0.0f;
  gemm(product, stream);
}

}  // namespace expctr::cuda
