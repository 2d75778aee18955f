// Devices, memory, copies and streams: thin, checked calls of the CUDA runtime.
#include "cuda/device.h"
#include "cuda/gemm.h"
#include "cuda/launch.cuh"

namespace expctr::cuda {

void fail(cudaError_t status, const char* expression, const char* file, int line) {
  cudaGetLastError();  // an error that is not sticky must not be reported again by the next launch
  const std::string text = std::string("cuda: ") + expression + " failed at " + file + ":" + std::to_string(line) + ": " +
                           cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")";
  if (status == cudaErrorMemoryAllocation) throw ResourceError(text, "use a smaller batch, or `plan` to see what fits");
  if (status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver)
    throw ResourceError(text, "no usable CUDA device or driver here; choose --device cpu");
  throw Error(text, "if the message is of a kernel fault, an earlier launch on this stream caused it; compute-sanitizer names it");
}

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

std::string device_name(int index) {
  cudaDeviceProp properties;
  EXPCTR_CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
  return std::string(properties.name) + " (compute capability " + std::to_string(properties.major) + "." +
         std::to_string(properties.minor) + ")";
}

void set_device(int index) { EXPCTR_CUDA_CHECK(cudaSetDevice(index)); }

MemoryInfo memory_info() {
  MemoryInfo info{};
  EXPCTR_CUDA_CHECK(cudaMemGetInfo(&info.free, &info.total));
  return info;
}

void* allocate(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  void* pointer = nullptr;
  const cudaError_t status = cudaMalloc(&pointer, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  if (status != cudaSuccess) fail(status, ("cudaMalloc of " + std::to_string(bytes) + " bytes").c_str(), __FILE__, __LINE__);
  return pointer;
}

DeviceMemory::DeviceMemory(std::size_t bytes) : pointer_(allocate(bytes)), bytes_(bytes) {
  if (pointer_ == nullptr && bytes != 0)
    throw ResourceError("cuda: no " + std::to_string(bytes) + " bytes of device memory left",
                        "use a smaller batch, or `plan` to see what fits");
}

void release(void* pointer) noexcept {
  if (pointer != nullptr) cudaFree(pointer);
}

void copy_to_device(void* destination, const void* source, std::size_t bytes, Stream stream) {
  if (bytes == 0) return;
  EXPCTR_CUDA_CHECK(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyHostToDevice, native(stream)));
  EXPCTR_CUDA_CHECK(cudaStreamSynchronize(native(stream)));
}

void copy_to_host(void* destination, const void* source, std::size_t bytes, Stream stream) {
  if (bytes == 0) return;
  EXPCTR_CUDA_CHECK(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDeviceToHost, native(stream)));
  EXPCTR_CUDA_CHECK(cudaStreamSynchronize(native(stream)));
}

void copy_on_device(void* destination, const void* source, std::size_t bytes, Stream stream) {
  if (bytes != 0) EXPCTR_CUDA_CHECK(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDeviceToDevice, native(stream)));
}

void fill_bytes(void* destination, int value, std::size_t bytes, Stream stream) {
  if (bytes != 0) EXPCTR_CUDA_CHECK(cudaMemsetAsync(destination, value, bytes, native(stream)));
}

Stream create_stream() {
  cudaStream_t stream = nullptr;
  EXPCTR_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return Stream{stream};
}

void destroy_stream(Stream stream) noexcept {
  if (stream.handle == nullptr) return;
  cudaStreamSynchronize(native(stream));
  release_workspace(stream);
  cudaStreamDestroy(native(stream));
}

void synchronise(Stream stream) { EXPCTR_CUDA_CHECK(cudaStreamSynchronize(native(stream))); }

}  // namespace expctr::cuda
