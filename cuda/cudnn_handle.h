// cuDNN's handle and its errors.
#pragma once

#include <cudnn.h>

#include <map>
#include <mutex>

#include "cuda/launch.cuh"

namespace expctr::cuda {

inline void check_cudnn(cudnnStatus_t status, const char* call) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  throw Error(std::string("cuda: ") + call + " failed: " + cudnnGetErrorString(status),
              "switch cuDNN off: the engine's own kernels take every shape");
}

/// The current device's handle, set to the stream. One a device, never destroyed: the driver may be gone before static destructors run.
inline cudnnHandle_t cudnn_handle(Stream stream) {
  static std::mutex* mutex = new std::mutex;
  static auto* handles = new std::map<int, cudnnHandle_t>;
  int device = 0;
  EXPCTR_CUDA_CHECK(cudaGetDevice(&device));
  const std::lock_guard lock(*mutex);
  cudnnHandle_t& handle = (*handles)[device];
  if (handle == nullptr) check_cudnn(cudnnCreate(&handle), "cudnnCreate");
  check_cudnn(cudnnSetStream(handle, native(stream)), "cudnnSetStream");
  return handle;
}

}  // namespace expctr::cuda
