// What a kernel sees of a tensor: a pointer, a shape and an element type. Dense and row-major, except for the operands of CopyStrided
// (base/kernels/layout.h), which alone reads the strides.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace expctr {

constexpr int max_rank = 5;

struct View {
  void* data = nullptr;
  DType dtype = DType::f32;
  int rank = 0;
  std::int64_t shape[max_rank] = {};
  std::int64_t stride[max_rank] = {};  ///< elements between neighbours along each axis; 0 along an axis that repeats one element

  bool empty() const { return data == nullptr; }  ///< an absent optional operand, or no elements
  std::int64_t size() const {
    std::int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }
  std::int64_t width() const { return rank == 0 ? 1 : shape[rank - 1]; }            ///< last extent
  std::int64_t rows() const {                                                       ///< product of the others
    std::int64_t n = 1;
    for (int i = 0; i + 1 < rank; ++i) n *= shape[i];
    return n;
  }
  template <class T> T* as() const { return static_cast<T*>(data); }
};

/// Row-major strides of a shape: stride[rank - 1] = 1, stride[i] = stride[i + 1] shape[i + 1].
constexpr void fill_dense_strides(int rank, const std::int64_t* shape, std::int64_t* stride) {
  std::int64_t step = 1;
  for (int i = rank - 1; i >= 0; --i) {
    stride[i] = step;
    step *= shape[i];
  }
}

/// Whether the elements lie row-major without gaps: the stride of an axis of one element does not matter, nor any of an empty tensor.
constexpr bool has_dense_strides(int rank, const std::int64_t* shape, const std::int64_t* stride) {
  std::int64_t step = 1;
  bool dense = true;
  for (int i = rank - 1; i >= 0; --i) {
    if (shape[i] == 0) return true;
    dense = dense && (shape[i] == 1 || stride[i] == step);
    step *= shape[i];
  }
  return dense;
}

/// Where work is queued. CPU: null, work is done on return. CUDA: a cudaStream_t.
struct Stream {
  void* handle = nullptr;
};

}  // namespace expctr
