// Where a tensor lives.
#pragma once

#include <string>
#include <string_view>

#include "base/view.h"

namespace expctr {

enum class DeviceType : std::uint8_t { cpu, cuda };

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;
  bool operator==(const Device&) const = default;
  bool is_cuda() const { return type == DeviceType::cuda; }
};

constexpr Device cpu_device{};

/// "cpu", "cuda", "cuda:1". Throws UsageError for anything else, for a build without CUDA and for a device that is not there.
Device parse_device(std::string_view text);
std::string device_name(Device device);

/// The stream that this process queues its work on; null on the CPU. Makes the device the calling thread's current one.
Stream current_stream(Device device);
/// Waits until all queued work of the device is done.
void synchronise(Device device);

}  // namespace expctr
