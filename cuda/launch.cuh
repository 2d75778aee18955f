// What every kernel file shares: checked CUDA calls, launch sizes, checks of arguments.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <initializer_list>
#include <string>

#include "base/error.h"
#include "base/view.h"
#include "cuda/run.h"

namespace expctr::cuda {

/// Throws the Error (ResourceError when memory ran out) for a failed call; clears the runtime's error unless it is sticky.
[[noreturn]] void fail(cudaError_t status, const char* expression, const char* file, int line);

// A macro because the message shows the expression.
#define EXPCTR_CUDA_CHECK(expression)                                                                       \
  do {                                                                                                      \
    const cudaError_t expctr_status = (expression);                                                         \
    if (expctr_status != cudaSuccess) ::expctr::cuda::fail(expctr_status, #expression, __FILE__, __LINE__); \
  } while (false)

inline cudaStream_t native(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }

/// After a launch: an invalid configuration or an earlier fault becomes an Error that names the kernel.
inline void check_launch(const char* kernel, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) fail(status, (std::string(kernel) + "<<<...>>>").c_str(), file, line);
}

constexpr int block_threads = 256;

__host__ __device__ constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Quotient and remainder of numbers that are not negative; 32-bit division, a tenth of the instructions, where both fit.
__device__ __forceinline__ std::int64_t divide(std::int64_t a, std::int64_t b, std::int64_t& rest) {
  if (((a | b) >> 32) == 0) {
    const auto x = static_cast<std::uint32_t>(a), y = static_cast<std::uint32_t>(b), quotient = x / y;
    rest = x - quotient * y;
    return quotient;
  }
  const std::int64_t quotient = a / b;
  rest = a - quotient * b;
  return quotient;
}

/// Number of blocks of `per_block` items, as the grid's x extent.
inline unsigned blocks_for(std::int64_t items, std::int64_t per_block) {
  const std::int64_t blocks = ceil_div(items, per_block);
  if (blocks > 0x7FFFFFFF) throw Error("cuda: a launch of " + std::to_string(blocks) + " blocks exceeds the grid", "split the tensor");
  return static_cast<unsigned>(blocks);
}

/// Every present view must have this dtype.
inline void require(const char* kernel, DType dtype, std::initializer_list<const View*> views) {
  for (const View* view : views) {
    if (view->empty() || view->dtype == dtype) continue;
    throw Error(std::string("cuda: ") + kernel + ": an operand is " + dtype_name(view->dtype) + ", the kernel takes " + dtype_name(dtype),
                view->dtype == DType::f64 ? "f64 exists on the CPU only; choose --device cpu or f32" : "convert the operand first");
  }
}
inline void require_f32(const char* kernel, std::initializer_list<const View*> views) { require(kernel, DType::f32, views); }

/// Scratch must hold what scratch_bytes asked for.
inline void require_scratch(const char* kernel, const View& scratch, std::size_t bytes) {
  const std::size_t given = scratch.empty() ? 0 : dtype_bytes(scratch.dtype, scratch.size());
  if (given < bytes)
    throw Error(std::string("cuda: ") + kernel + ": scratch of " + std::to_string(given) + " bytes, needs " + std::to_string(bytes),
                "pass scratch_bytes(args) bytes");
}

__host__ __device__ __forceinline__ bool aligned16(const void* pointer) { return (reinterpret_cast<std::uintptr_t>(pointer) & 15u) == 0; }

}  // namespace expctr::cuda
