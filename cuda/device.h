// What the engine needs to drive a CUDA device. Free of CUDA types, so every file may include it.
#pragma once

#include <cstddef>
#include <string>

#include "base/view.h"

namespace expctr::cuda {

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

}  // namespace expctr::cuda
