// What the copies between layouts move: each element once, in whole sectors, without bank conflicts.
#include "base/kernels/layout.h"

#include <string>

#include "tests/cuda/device_tensor.h"
#include "tests/support/launch_profile.h"
#include "tests/support/paths.h"

using namespace expctr;
using namespace expctr::test;

namespace {

View dense_view(View view) {
  fill_dense_strides(view.rank, view.shape, view.stride);
  return view;
}

View transposed(View view) {
  std::swap(view.shape[0], view.shape[1]);
  std::swap(view.stride[0], view.stride[1]);
  return view;
}

}  // namespace

TEST_CASE("copies between layouts move each byte once") {
  const std::int64_t rows = 1024, width = 576, cut = 192;
  for (const int capability : {80, 90}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const bool accumulate : {false, true}) {
        CAPTURE(dtype_name(dtype));
        CAPTURE(accumulate);
        const double bytes = static_cast<double>(dtype_bytes(dtype, rows * width)) * (accumulate ? 3 : 2);
        const LaunchProfile profile = profile_launches(capability, [&] {
          const std::vector<unsigned char> zeros(dtype_bytes(dtype, rows * width));
          const DeviceTensor x(dtype, {rows, width}, zeros.data()), y(dtype, {width, rows}, zeros.data());
          launch(CopyStrided{accumulate, transposed(dense_view(x)), dense_view(y)});
          // A block of columns out of wider rows.
          View columns = dense_view(x), part = dense_view(DeviceTensor(dtype, {rows, cut}, zeros.data()));
          const DeviceTensor target(dtype, {rows, cut}, zeros.data());
          part.data = target.view().data;
          columns.shape[1] = cut;
          launch(CopyStrided{accumulate, columns, part});
        });
        if (!profile.here) return skip_test(no_launch_profile);
        const KernelLaunch turn = profile.only("transpose_kernel"), block = profile.only("copy_kernel");
        CHECK(static_cast<double>(turn.requested_bytes()) == bytes);
        CHECK(turn.sector_efficiency() == 1.0);
        CHECK(turn.bank_conflict_share() < 0.05);
        CHECK(static_cast<double>(block.requested_bytes()) == bytes * cut / width);
        CHECK(block.sector_efficiency() == 1.0);
      }
    }
  }
}
