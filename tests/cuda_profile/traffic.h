// The bound on a memory-bound kernel's traffic, and device memory for bodies that are profiled.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <initializer_list>
#include <numeric>
#include <string>
#include <vector>

#include "base/kernels/linear.h"
#include "cuda/device.h"
#include "cuda/run.h"
#include "tests/cuda/device_tensor.h"
#include "tests/support/launch_profile.h"
#include "tests/support/paths.h"

namespace expctr::test {

constexpr double most_excess = 1.15, least_sector_efficiency = 0.9;

/// Empty when the launch asks for at most 1.15 times its compulsory bytes, at least 90 % of the sectors' bytes; else what is wrong.
inline std::string traffic_complaint(const KernelLaunch& launch) {
  if (launch.excess() <= most_excess && launch.sector_efficiency() >= least_sector_efficiency) return "";
  return fmt::format("{} blocks of {}: asks for {:.2f} times its {:.2f} MB, sector efficiency {:.2f}: {}", launch.blocks, launch.threads,
                     launch.excess(), static_cast<double>(launch.compulsory_bytes()) / 1e6, launch.sector_efficiency(),
                     launch.kernel.substr(0, 160));
}

/// Device memory without a host copy; every float is 0.0115 (bytes 0x3C), every integer what `ids` says.
class Buffer {
 public:
  Buffer(std::initializer_list<std::int64_t> shape, DType dtype = DType::f32) : memory_(bytes_of(shape, dtype)) {
    cuda::fill_bytes(memory_.data(), 0x3C, memory_.bytes(), stream());
    describe(shape, dtype);
  }
  static Buffer ids(const std::vector<std::int32_t>& values) {
    Buffer buffer({static_cast<std::int64_t>(values.size())}, DType::i32);
    cuda::copy_to_device(buffer.memory_.data(), values.data(), values.size() * sizeof(std::int32_t), stream());
    return buffer;
  }
  operator View() const { return view_; }
  View view() const { return view_; }

 private:
  static std::size_t bytes_of(std::initializer_list<std::int64_t> shape, DType dtype) {
    return dtype_bytes(dtype, std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>()));
  }
  void describe(std::initializer_list<std::int64_t> shape, DType dtype) {
    view_.data = memory_.data();
    view_.dtype = dtype;
    view_.rank = static_cast<int>(shape.size());
    std::copy(shape.begin(), shape.end(), view_.shape);
  }
  cuda::DeviceMemory memory_;
  View view_;
};

using Body = std::function<void(DType)>;

struct Storage {
  int capability;
  DType dtype;
};

/// `launches` in all, each within the bound. Each architecture and each storage once, which takes half of the time of all four pairs.
inline void check_body(std::size_t launches, const Body& body,
                       const std::vector<Storage>& storages = {{80, DType::bf16}, {90, DType::f32}}) {
  for (const auto [capability, dtype] : storages) {
    const LaunchProfile profile = profile_launches(capability, [&, stored = dtype] { body(stored); }, {.checks = "none"});
    if (!profile.here) return skip_test(no_launch_profile);
    INFO("compute capability ", capability, ", ", std::string(dtype_name(dtype)));
    CHECK(profile.launches.size() == launches);
    for (const KernelLaunch& launch : profile.launches) CHECK(traffic_complaint(launch) == "");
  }
}

/// first, first + step, ... (count values)
inline std::vector<std::int32_t> every(std::int64_t count, std::int32_t step, std::int32_t first = 0) {
  std::vector<std::int32_t> values;
  for (std::int64_t i = 0; i < count; ++i) values.push_back(first + static_cast<std::int32_t>(i) * step);
  return values;
}

}  // namespace expctr::test
