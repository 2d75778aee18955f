// The profile itself: known kernels give known counts, and a body that fails does not pass.
#include "tests/support/launch_profile.h"

#include "base/error.h"
#include "base/kernels/elementwise.h"
#include "base/kernels/embedding.h"
#include "tests/cuda/device_tensor.h"
#include "tests/support/paths.h"

using namespace expctr;
using namespace expctr::test;

TEST_CASE("a launch profile counts bytes, sectors and calls, on both compute capabilities") {
  for (const int capability : {80, 90}) {
    const LaunchProfile profile = profile_launches(capability, [] {
      const DeviceTensor y = DeviceTensor::output({4096});
      launch(Fill{1.0, y});
    });
    if (!profile.here) return skip_test(no_launch_profile);
    const KernelLaunch fill = profile.only("fill_kernel");
    CHECK(fill.load_bytes == 0);
    CHECK(fill.store_bytes == 4096 * 4);
    CHECK(fill.store_sectors == 4096 * 4 / 32);
    CHECK(fill.compulsory_bytes() == 4096 * 4);
    CHECK(fill.excess() == 1.0);
    CHECK(fill.sector_efficiency() == 1.0);
    CHECK(fill.threads == 256);
    CHECK(fill.warp_instructions > 0);
    CHECK(profile.calls("cudaLaunchKernel") == 1);
    CHECK(profile.calls("no such function") == 0);
  }
}

TEST_CASE("a launch profile shows a column read across its rows") {
  const std::int64_t rows = 1024, width = 16;
  const LaunchProfile profile = profile_launches(90, [&] {
    const DeviceTensor x(random_floats(rows * width, 1), {rows, width}), y = DeviceTensor::output({rows, 1});
    launch(CopyColumns{1, 3, 0, false, x, y});
  });
  if (!profile.here) return skip_test(no_launch_profile);
  // A lane reads 4 bytes of a sector of its own and writes 4 beside its neighbours'.
  const KernelLaunch copy = profile.only("copy_columns_kernel");
  CHECK(copy.load_sectors == 1024);
  CHECK(copy.store_sectors == 1024 / 8);
  CHECK(copy.sector_efficiency() == doctest::Approx(2.0 / 9.0));
}

TEST_CASE("several profiled bodies of one test case, each with its own profile, and subcases") {
  for (const std::int64_t n : {256, 512}) {
    const LaunchProfile profile = profile_launches(90, [&] { launch(Fill{1.0, DeviceTensor::output({n})}); });
    if (!profile.here) return skip_test(no_launch_profile);
    CHECK(profile.only("fill").store_bytes == static_cast<std::uint64_t>(4 * n));
  }
  SUBCASE("first") {
    CHECK(profile_launches(90, [] {}).launches.empty());
  }
  SUBCASE("second") {
    CHECK(profile_launches(80, [] {}).launches.empty());
  }
}

TEST_CASE("a profiled body that throws, fails a check or faults on the device fails the call") {
  const LaunchProfile first = profile_launches(90, [] {});
  if (!first.here) return skip_test(no_launch_profile);
  CHECK_THROWS_WITH_AS(profile_launches(90, [] { throw Error("a reason"); }), doctest::Contains("a reason"), Error);
  CHECK_THROWS_WITH_AS(profile_launches(90, [] { CHECK(1 == 2); }), doctest::Contains("1 == 2"), Error);
  CHECK_THROWS_WITH_AS(profile_launches(90, [] { REQUIRE(1 == 3); }), doctest::Contains("1 == 3"), Error);
  const auto reads_past_the_end = [] {
    const DeviceTensor x(random_floats(8, 1), {8}), y = DeviceTensor::output({1 << 20});
    View longer = x;
    longer.shape[0] = 1 << 20;
    launch(Affine{1, 0, longer, y});
  };
  CHECK_THROWS_WITH_AS(profile_launches(90, reads_past_the_end), doctest::Contains("vgpu: "), Error);
  CHECK_THROWS_AS(profile_launches(90, [] {}).only("fill"), Error);
}
