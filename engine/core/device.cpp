#include "engine/core/device.h"

#include <fmt/format.h>

#include <charconv>

#include "base/error.h"
#include "cuda/device.h"
#include "engine/core/build_info.h"

namespace expctr {

Device parse_device(std::string_view text) {
  if (text == "cpu") return {};
  if (!text.starts_with("cuda")) throw UsageError(fmt::format("unknown device '{}'", text), "devices are cpu, cuda and cuda:N");
  int index = 0;
  if (text.size() > 4) {
    const char* end = text.data() + text.size();
    const auto [stop, fault] = std::from_chars(text.data() + 5, end, index);
    if (text[4] != ':' || fault != std::errc() || stop != end || index < 0) {
      throw UsageError(fmt::format("unknown device '{}'", text), "devices are cpu, cuda and cuda:N");
    }
  }
  if constexpr (has_cuda) {
    const int count = cuda::device_count();
    if (index >= count) throw UsageError(fmt::format("device cuda:{} was asked for, {} CUDA devices are here", index, count), "use --device cpu");
    return {DeviceType::cuda, index};
  }
  throw UsageError("this binary was built without CUDA", "build it on a machine with nvcc, or use --device cpu");
}

std::string device_name(Device device) { return device.is_cuda() ? fmt::format("cuda:{}", device.index) : "cpu"; }

Stream current_stream(Device device) {
  if (!device.is_cuda()) return {};
  if constexpr (has_cuda) {
    static Stream streams[16];
    thread_local int current = -1;  // CUDA keeps the current device per thread
    if (current != device.index) {
      cuda::set_device(device.index);
      current = device.index;
    }
    if (streams[device.index].handle == nullptr) streams[device.index] = cuda::create_stream();
    return streams[device.index];
  }
  return {};
}

void synchronise(Device device) {
  if (!device.is_cuda()) return;
  if constexpr (has_cuda) cuda::synchronise(current_stream(device));
}

}  // namespace expctr
