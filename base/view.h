// What a kernel sees of a tensor: a pointer, a shape and an element type. Always dense, row-major.
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

/// Where work is queued. CPU: null, work is done on return. CUDA: a cudaStream_t.
struct Stream {
  void* handle = nullptr;
};

}  // namespace expctr
