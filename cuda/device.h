<<<<<<< HEAD
// Devices, memory, copies and streams, free of CUDA types: what the engine needs to drive the kernels.
// Every failed call throws an Error that shows the call; an allocation that does not fit throws ResourceError.
=======
// What the engine needs to drive a CUDA device. Free of CUDA types, so every file may include it.
>>>>>>> main
#pragma once

#include <cstddef>
#include <string>
<<<<<<< HEAD
#include <utility>
=======
>>>>>>> main

#include "base/view.h"

namespace expctr::cuda {

<<<<<<< HEAD
/// Devices this process can use; 0 without a driver or a device.
int device_count();
/// Name and compute capability, e.g. "NVIDIA H100 (compute capability 9.0)".
std::string device_name(int device);
/// Makes `device` the one that this thread's later calls work on.
void set_device(int device);

struct MemoryInfo {
  std::size_t free_bytes, total_bytes;
};
/// Of the current device.
MemoryInfo memory_info();

/// At least 256-byte aligned; null for 0 bytes.
void* allocate(std::size_t bytes);
/// Does not throw; null is allowed. Work that uses the memory must have finished.
void release(void* pointer) noexcept;

/// Copies are queued on the stream; host memory must stay as it is until the stream is synchronised.
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

/// Owns device memory.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  explicit DeviceMemory(std::size_t bytes) : pointer_(allocate(bytes)), bytes_(bytes) {}
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
=======
int device_count();
std::string device_name(int index);
void set_device(int index);
/// Null when the device has no such block left.
void* allocate(std::size_t bytes);
void release(void* pointer) noexcept;
/// Copies between host and device return when the host memory may be used again.
void copy_to_device(void* destination, const void* source, std::size_t bytes, Stream stream);
void copy_to_host(void* destination, const void* source, std::size_t bytes, Stream stream);
void copy_on_device(void* destination, const void* source, std::size_t bytes, Stream stream);
void fill_bytes(void* destination, int value, std::size_t bytes, Stream stream);
Stream create_stream();
void destroy_stream(Stream stream) noexcept;
void synchronise(Stream stream);
struct MemoryInfo {
  std::size_t free = 0, total = 0;
};
MemoryInfo memory_info();
>>>>>>> main

}  // namespace expctr::cuda
