// Choosing a device by name where there is one CUDA device, and where there is none.
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "cuda/device.h"
#include "engine/ops/elementwise.h"
#include "tests/cuda_models/both.h"

using namespace expctr;
using namespace expctr::test;

namespace {

std::string refusal(const char* name) {
  try {
    parse_device(name);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("devices are chosen by name, and names of devices that are not here are refused") {
  REQUIRE(cuda::device_count() >= 1);
  CHECK(parse_device("cuda") == cuda_device());
  CHECK(parse_device("cuda:0") == cuda_device());
  CHECK(parse_device("cpu") == cpu_device);
  CHECK(refusal("cuda:12").find("cuda:12 was asked for") != std::string::npos);
  for (const char* name : {"", "gpu", "cuda:", "cuda0", "cuda:-1", "cuda:x", "cuda:0 ", "cuda:99999999999999999999"}) {
    CAPTURE(name);
    CHECK(refusal(name).find("unknown device") != std::string::npos);
  }
}

// The next two run in processes of their own, started by the tests behind them.
TEST_CASE("without a device" * doctest::skip()) {
  CHECK(cuda::device_count() == 0);
  CHECK(refusal("cuda").find("cuda:0 was asked for, 0 CUDA devices are here") != std::string::npos);
  CHECK(refusal("cuda").find("--device cpu") != std::string::npos);
  CHECK(parse_device("cpu") == cpu_device);
  CHECK(doubles(Tensor::of(std::vector<float>{1.0f, 2.0f}, {2})) == std::vector<double>{1.0, 2.0});
}

TEST_CASE("on the second device" * doctest::skip()) {
  if (cuda::device_count() < 2) return;  // a machine with one real device
  const auto free_bytes = [](int index) {
    cuda::set_device(index);
    return cuda::memory_info().free;
  };
  const std::size_t first = free_bytes(0), second = free_bytes(1);
  cuda::set_device(0);
  // The first thing that this process asks of a device is memory.
  const Tensor x = Tensor::zeros({1 << 20}, DType::f32, parse_device("cuda:1"));
  CHECK(doubles(affine(x.slice_rows(0, 2), 1.0, 3.0)) == std::vector<double>{3.0, 3.0});
  CHECK(free_bytes(1) + x.bytes() <= second);
  CHECK(free_bytes(0) == first);
}

namespace {

bool passes(const std::string& environment, const std::string& test_case) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  return std::system(fmt::format("{} '{}' --no-skip --test-case='{}' > /dev/null", environment, self, test_case).c_str()) == 0;
}

}  // namespace

TEST_CASE("a process that sees no device says so and works on the CPU") {
  CHECK(passes("VGPU_DEVICES=0 CUDA_VISIBLE_DEVICES=", "without a device"));
}

TEST_CASE("a process on the second device takes its memory from there") { CHECK(passes("VGPU_DEVICES=2", "on the second device")); }
