// What the engine needs to drive a CUDA device: memory, copies, streams. Free of CUDA types, so every file may include it.
// A failed call throws an Error that shows the call.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "base/view.h"

namespace expctr::cuda {

/// Devices this process can use; 0 without a driver or a device.
int device_count();
/// Name and compute capability, e.g. "NVIDIA H100 (compute capability 9.0)".
std::string device_name(int index);
/// Makes `index` the device that this thread's later calls work on.
void set_device(int index);

struct MemoryInfo {
  std::size_t free = 0, total = 0;
};
/// Bytes of the current device.
MemoryInfo memory_info();

/// 256-byte aligned; null when the device has no such block left, and for 0 bytes.
void* allocate(std::size_t bytes);
/// Null is allowed. Work that uses the memory must have finished.
void release(void* pointer) noexcept;

/// Copies between host and device return when the host memory may be used again; those on the device are queued.
void copy_to_device(void* destination, const void* source, std::size_t bytes, Stream stream);
void copy_to_host(void* destination, const void* source, std::size_t bytes, Stream stream);
void copy_on_device(void* destination, const void* source, std::size_t bytes, Stream stream);
/// Sets every byte to `value`.
void fill_bytes(void* destination, int value, std::size_t bytes, Stream stream);

Stream create_stream();
/// Waits for the stream's work, then frees it and the library workspace that belongs to it.
void destroy_stream(Stream stream) noexcept;
/// Waits for all work of the stream; faults of its kernels surface here.
void synchronise(Stream stream);

/// Owns device memory; ResourceError when there is not enough.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  explicit DeviceMemory(std::size_t bytes);
  DeviceMemory(DeviceMemory&& other) noexcept : pointer_(std::exchange(other.pointer_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    std::swap(pointer_, other.pointer_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceMemory() { release(pointer_); }
  void* data() const { return pointer_; }
  std::size_t bytes() const { return bytes_; }

 private:
  void* pointer_ = nullptr;
  std::size_t bytes_ = 0;
};

/// Owns a stream.
class OwnedStream {
 public:
  OwnedStream() : stream_(create_stream()) {}
  OwnedStream(OwnedStream&& other) noexcept : stream_(std::exchange(other.stream_, Stream{})) {}
  OwnedStream& operator=(OwnedStream&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }
  ~OwnedStream() { destroy_stream(stream_); }
  Stream get() const { return stream_; }

 private:
  Stream stream_;
};

}  // namespace expctr::cuda
