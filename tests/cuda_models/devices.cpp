// Choosing a device by name where there is one CUDA device, and where there is none.
#include <cstdio>
#include <cstdlib>

#include "base/error.h"
#include "cuda/device.h"
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

// Run by the test below in a process that sees no device.
TEST_CASE("without a device") {
  if (std::getenv("EXPCTR_TEST_WITHOUT_DEVICE") == nullptr) return;
  CHECK(cuda::device_count() == 0);
  CHECK(refusal("cuda").find("cuda:0 was asked for, 0 CUDA devices are here") != std::string::npos);
  CHECK(refusal("cuda").find("--device cpu") != std::string::npos);
  CHECK(parse_device("cpu") == cpu_device);
  CHECK(doubles(Tensor::of(std::vector<float>{1.0f, 2.0f}, {2})) == std::vector<double>{1.0, 2.0});
}

TEST_CASE("a process that sees no device says so and works on the CPU") {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::string command =
      "VGPU_DEVICES=0 CUDA_VISIBLE_DEVICES= EXPCTR_TEST_WITHOUT_DEVICE=1 '" + self + "' --test-case='without a device' > /dev/null";
  CHECK(std::system(command.c_str()) == 0);
}
