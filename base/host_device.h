// Marks functions that both the host compiler and nvcc compile.
#pragma once

#ifdef __CUDACC__
#define EXPCTR_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define EXPCTR_HOST_DEVICE inline
#endif
