// Tensors in device memory for tests of kernels: guards around the data, shifted starts, and comparison with double references.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "base/kernels/linear.h"
#include "base/philox.h"
#include "cuda/device.h"
#include "cuda/run.h"

namespace expctr::test {

inline Stream stream() {
  static cuda::OwnedStream* owned = new cuda::OwnedStream;  // outlives every test; the driver may be gone before static destructors run
  return owned->get();
}

using Shape = std::vector<std::int64_t>;

inline std::int64_t elements(const Shape& shape) {
  std::int64_t n = 1;
  for (const std::int64_t extent : shape) n *= extent;
  return n;
}

/// Values in [low, high), the same for the same seed.
inline std::vector<float> random_floats(std::int64_t n, std::uint32_t seed, float low = -1, float high = 1) {
  std::vector<float> values(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i)
    values[static_cast<std::size_t>(i)] =
        low + (high - low) * uniform_float(philox({seed, 7}, {static_cast<std::uint32_t>(i), 0, 0, 0}).word[0]);
  return values;
}

inline std::vector<std::int32_t> random_ids(std::int64_t n, std::uint32_t seed, std::int32_t low, std::int32_t high) {
  std::vector<std::int32_t> values(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i)
    values[static_cast<std::size_t>(i)] =
        low + static_cast<std::int32_t>(philox({seed, 11}, {static_cast<std::uint32_t>(i), 0, 0, 0}).word[0] %
                                        static_cast<std::uint32_t>(high - low));
  return values;
}

/// Data in device memory between two guards. `shift` bytes after a 256-byte boundary, to reach the paths for unaligned rows.
class DeviceTensor {
 public:
  DeviceTensor(DType dtype, Shape shape, const void* values, std::size_t shift = 0)
      : dtype_(dtype),
        shape_(std::move(shape)),
        shift_(shift),
        bytes_(dtype_bytes(dtype, elements(shape_))),
        memory_(2 * guard + shift + bytes_) {
    std::vector<unsigned char> image(memory_.bytes(), 0xA5);
    if (values != nullptr) std::memcpy(image.data() + guard + shift_, values, bytes_);
    cuda::copy_to_device(memory_.data(), image.data(), image.size(), stream());
    cuda::synchronise(stream());
  }
  template <class T>
  DeviceTensor(const std::vector<T>& values, Shape shape, std::size_t shift = 0)
      : DeviceTensor(DTypeOf<T>::value, std::move(shape), values.data(), shift) {}

  /// An output: every byte 0xA5 until the kernel writes it.
  static DeviceTensor output(Shape shape, DType dtype = DType::f32, std::size_t shift = 0) {
    return DeviceTensor(dtype, std::move(shape), nullptr, shift);
  }

  View view() const {
    View view;
    view.data = static_cast<char*>(memory_.data()) + guard + shift_;
    view.dtype = dtype_;
    view.rank = static_cast<int>(shape_.size());
    for (std::size_t i = 0; i < shape_.size(); ++i) view.shape[i] = shape_[i];
    return view;
  }
  operator View() const { return view(); }

  /// Waits for the stream, checks the guards, returns the elements.
  template <class T = float>
  std::vector<T> read() const {
    std::vector<unsigned char> image(memory_.bytes());
    cuda::copy_to_host(image.data(), memory_.data(), image.size(), stream());
    cuda::synchronise(stream());
    bool intact = true;
    for (std::size_t i = 0; i < image.size(); ++i)
      if (i < guard + shift_ || i >= guard + shift_ + bytes_) intact = intact && image[i] == 0xA5;
    CHECK_MESSAGE(intact, "the kernel wrote outside its output");
    std::vector<T> values(bytes_ / sizeof(T));
    if (bytes_ != 0) std::memcpy(values.data(), image.data() + guard + shift_, bytes_);
    return values;
  }

 private:
  static constexpr std::size_t guard = 256;
  DType dtype_;
  Shape shape_;
  std::size_t shift_, bytes_;
  cuda::DeviceMemory memory_;
};

/// Runs the kernel with scratch of exactly the bytes it asks for, and waits.
template <class Args>
void launch(Args args) {
  if constexpr (requires { args.scratch; }) {
    const std::size_t bytes = cuda::scratch_bytes(args);
    const cuda::DeviceMemory memory(bytes);
    args.scratch.data = memory.data();
    args.scratch.dtype = DType::u8;
    args.scratch.rank = 1;
    args.scratch.shape[0] = static_cast<std::int64_t>(bytes);
    cuda::run(args, stream());
    cuda::synchronise(stream());
  } else {
    cuda::run(args, stream());
    cuda::synchronise(stream());
  }
}

/// Every |actual - expected| within float32 rounding of a sum of `terms` products, relative to the largest expected value (at least 1).
inline void check_close(const std::vector<float>& actual, const std::vector<double>& expected, double terms = 1, double epsilon = 0x1p-23) {
  REQUIRE(actual.size() == expected.size());
  double largest = 1;
  for (const double value : expected)
    if (std::isfinite(value)) largest = std::max(largest, std::fabs(value));
  const double allowed = epsilon * (4 + 2 * std::sqrt(terms)) * largest;
  double worst = 0;
  std::size_t at = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    double difference = std::fabs(actual[i] - expected[i]);
    if (actual[i] == expected[i]) difference = 0;  // infinities
    if (std::isnan(difference)) difference = std::numeric_limits<double>::infinity();
    if (difference > worst) {
      worst = difference;
      at = i;
    }
  }
  CHECK_MESSAGE(worst <= allowed, "element ", at, ": ", actual.empty() ? 0.0f : actual[at], " instead of ",
                actual.empty() ? 0.0 : expected[at], ", allowed difference ", allowed);
}

}  // namespace expctr::test
