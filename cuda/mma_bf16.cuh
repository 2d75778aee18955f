// mma.sync m16n8k16 on bf16 operands with float sums, and how its left operand comes from shared memory.
#pragma once

#include "cuda/launch.cuh"

namespace expctr::cuda {

__device__ __forceinline__ std::uint32_t bf16_pair(float low, float high) {
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

/// d += a b for a 16 x 16 and b 16 x 8.
__device__ __forceinline__ void multiply_add(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// The 16 x 16 left fragment at `address` (shared memory, this lane's row of it).
__device__ __forceinline__ void load_left(std::uint32_t (&a)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(address)
               : "memory");
}

/// This lane's row of the left operand for load_left.
__device__ __forceinline__ std::uint32_t left_address(const std::uint16_t* left, int stride, int lane) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(left + (lane % 16) * stride + lane / 16 * 8));
}

}  // namespace expctr::cuda
