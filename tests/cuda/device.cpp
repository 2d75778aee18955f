#include "cuda/device.h"

#include <doctest/doctest.h>

#include <vector>

#include "base/error.h"
#include "base/kernels/elementwise.h"
#include "tests/cuda/device_tensor.h"

using namespace expctr;

TEST_CASE("the device has a name and memory") {
  REQUIRE(cuda::device_count() >= 1);
  cuda::set_device(0);
  CHECK(cuda::device_name(0).find("compute capability") != std::string::npos);
  const cuda::MemoryInfo info = cuda::memory_info();
  CHECK(info.free <= info.total);
  CHECK(info.total > 0);
}

TEST_CASE("copies and fills go where they should") {
  const std::vector<float> values = {1, 2, 3, 4, 5};
  const cuda::DeviceMemory a(20), b(20);
  std::vector<float> back(5);
  cuda::fill_bytes(a.data(), 0, 20, test::stream());
  cuda::copy_to_device(b.data(), values.data(), 20, test::stream());
  cuda::copy_on_device(static_cast<float*>(a.data()) + 1, b.data(), 16, test::stream());
  cuda::copy_to_host(back.data(), a.data(), 20, test::stream());
  cuda::synchronise(test::stream());
  CHECK(back == std::vector<float>{0, 1, 2, 3, 4});
}

TEST_CASE("an allocation that does not fit gives null, the owning class a ResourceError") {
  CHECK(cuda::allocate(std::size_t{1} << 50) == nullptr);
  CHECK_THROWS_AS(cuda::DeviceMemory(std::size_t{1} << 50), ResourceError);
  CHECK(cuda::allocate(0) == nullptr);
  cuda::release(nullptr);
  void* small = cuda::allocate(16);  // the failed call left no error behind
  CHECK(small != nullptr);
  cuda::release(small);
}

TEST_CASE("a failed call names itself") {
  try {
    cuda::set_device(12345);
    FAIL("set_device(12345) succeeded");
  } catch (const Error& error) {
    CHECK(std::string(error.what()).find("cudaSetDevice") != std::string::npos);
  }
  cuda::set_device(0);
}

TEST_CASE("f64 is refused with a message that says where it exists") {
  const test::DeviceTensor x(std::vector<double>{1, 2}, {2}), y = test::DeviceTensor::output({2}, DType::f64);
  try {
    cuda::run(UnaryForward{Unary::exp, x, y}, test::stream());
    FAIL("f64 was accepted");
  } catch (const Error& error) {
    CHECK(std::string(error.what()).find("CPU only") != std::string::npos);
  }
}
