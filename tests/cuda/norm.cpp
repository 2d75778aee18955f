#include "base/kernels/norm.h"

#include <doctest/doctest.h>

#include "tests/cuda/device_tensor.h"

using namespace expctr;
using namespace expctr::test;

namespace {

struct Size {
  std::int64_t rows, width;
};
const std::vector<Size> sizes = {{0, 4},    {1, 1},    {3, 7},    {5, 64},   {40, 33},  {300, 12},
                                 {70, 576}, {2, 1100}, {3, 2049}, {9, 4096}, {2, 7000}, {2, 8196}};

}  // namespace

TEST_CASE("rms norm and its gradients") {
  for (const Size& size : sizes)
    for (const std::size_t shift : {0u, 4u}) {
      const auto [rows, width] = size;
      const std::int64_t n = rows * width;
      const double epsilon = 1e-5;
      const std::vector<float> x = random_floats(n, 1), gain = random_floats(width, 2), dy = random_floats(n, 3),
                               old_dx = random_floats(n, 4), old_dgain = random_floats(width, 5);
      const DeviceTensor xt(x, {rows, width}, shift), gt(gain, {width}),
          y = DeviceTensor::output({rows, width}), inverse = DeviceTensor::output({rows}), d(dy, {rows, width}), dx(old_dx, {rows, width}),
          dgain(old_dgain, {width}), dx_alone(old_dx, {rows, width}), dgain_alone(old_dgain, {width});
      launch(RmsNormForward{epsilon, xt, gt, y, inverse});
      launch(RmsNormBackward{xt, gt, inverse, d, dx, dgain, {}});
      launch(RmsNormBackward{xt, gt, inverse, d, dx_alone, {}, {}});
      launch(RmsNormBackward{xt, gt, inverse, d, {}, dgain_alone, {}});
      std::vector<double> want_y(n), want_inverse(rows), want_dx(old_dx.begin(), old_dx.end()),
          want_dgain(old_dgain.begin(), old_dgain.end());
      for (std::int64_t r = 0; r < rows; ++r) {
        double squares = 0, dot = 0;
        for (std::int64_t c = 0; c < width; ++c) {
          squares += static_cast<double>(x[r * width + c]) * x[r * width + c];
          dot += static_cast<double>(dy[r * width + c]) * gain[c] * x[r * width + c];
        }
        const double s = 1 / std::sqrt(squares / width + epsilon);
        want_inverse[r] = s;
        for (std::int64_t c = 0; c < width; ++c) {
          const double v = x[r * width + c], g = dy[r * width + c];
          want_y[r * width + c] = v * s * gain[c];
          want_dx[r * width + c] += s * (g * gain[c] - v * dot * s * s / width);
          want_dgain[c] += g * v * s;
        }
      }
      check_close(y.read(), want_y, width);
      check_close(inverse.read(), want_inverse, width);
      check_close(dx.read(), want_dx, width);
      check_close(dgain.read(), want_dgain, rows);
      check_close(dx_alone.read(), want_dx, width);
      check_close(dgain_alone.read(), want_dgain, rows);
    }
}

TEST_CASE("layer norm and its gradients") {
  for (const Size& size : sizes)
    for (const std::size_t shift : {0u, 4u}) {
      const auto [rows, width] = size;
      if (width == 1) continue;  // the deviation is 0: only epsilon would be seen
      const std::int64_t n = rows * width;
      const double epsilon = 1e-5;
      const std::vector<float> x = random_floats(n, 1, 4, 6), gain = random_floats(width, 2), bias = random_floats(width, 6),
                               dy = random_floats(n, 3), old_dx = random_floats(n, 4), old_dgain = random_floats(width, 5),
                               old_dbias = random_floats(width, 7);
      const DeviceTensor xt(x, {rows, width}, shift), gt(gain, {width}), bt(bias, {width}),
          y = DeviceTensor::output({rows, width}), mean = DeviceTensor::output({rows}), inverse = DeviceTensor::output({rows}),
          d(dy, {rows, width}), dx(old_dx, {rows, width}), dgain(old_dgain, {width}), dbias(old_dbias, {width}),
          dbias_alone(old_dbias, {width});
      launch(LayerNormForward{epsilon, xt, gt, bt, y, mean, inverse});
      launch(LayerNormBackward{xt, gt, mean, inverse, d, dx, dgain, dbias, {}});
      launch(LayerNormBackward{xt, gt, mean, inverse, d, {}, {}, dbias_alone, {}});
      std::vector<double> want_y(n), want_mean(rows), want_inverse(rows), want_dx(old_dx.begin(), old_dx.end()),
          want_dgain(old_dgain.begin(), old_dgain.end()), want_dbias(old_dbias.begin(), old_dbias.end());
      for (std::int64_t r = 0; r < rows; ++r) {
        double m = 0, variance = 0, sum = 0, dot = 0;
        for (std::int64_t c = 0; c < width; ++c) m += x[r * width + c] / static_cast<double>(width);
        for (std::int64_t c = 0; c < width; ++c) variance += (x[r * width + c] - m) * (x[r * width + c] - m) / width;
        const double s = 1 / std::sqrt(variance + epsilon);
        want_mean[r] = m;
        want_inverse[r] = s;
        for (std::int64_t c = 0; c < width; ++c) {
          const double z = (x[r * width + c] - m) * s, g = static_cast<double>(dy[r * width + c]) * gain[c];
          sum += g / width;
          dot += g * z / width;
          want_y[r * width + c] = z * gain[c] + bias[c];
          want_dgain[c] += dy[r * width + c] * z;
          want_dbias[c] += dy[r * width + c];
        }
        for (std::int64_t c = 0; c < width; ++c) {
          const double z = (x[r * width + c] - m) * s, g = static_cast<double>(dy[r * width + c]) * gain[c];
          want_dx[r * width + c] += s * (g - sum - z * dot);
        }
      }
      // x lies around 5 with a deviation of 0.6: rounding of x - mean counts 10 fold.
      check_close(y.read(), want_y, 100.0 * width);
      check_close(mean.read(), want_mean, width);
      check_close(inverse.read(), want_inverse, 100.0 * width);
      check_close(dx.read(), want_dx, 100.0 * width);
      check_close(dgain.read(), want_dgain, 100.0 * rows);
      check_close(dbias.read(), want_dbias, rows);
      check_close(dbias_alone.read(), want_dbias, rows);
    }
}

TEST_CASE("dice in training and evaluation, with its gradients") {
  for (const Size& size : std::vector<Size>{{0, 3}, {1, 3}, {2, 1}, {5, 7}, {40, 36}, {700, 9}})
    for (const bool training : {true, false}) {
      const auto [rows, width] = size;
      const std::int64_t n = rows * width;
      const double epsilon = 1e-3, momentum = 0.1;
      const std::vector<float> x = random_floats(n, 1, -1, 2), alpha = random_floats(width, 2), running_mean = random_floats(width, 3),
                               running_variance = random_floats(width, 4, 0.5f, 2), dy = random_floats(n, 5), old_dx = random_floats(n, 6),
                               old_dalpha = random_floats(width, 7);
      const DeviceTensor xt(x, {rows, width}), at(alpha, {width}), rm(running_mean, {width}), rv(running_variance, {width}),
          y = DeviceTensor::output({rows, width}), mean = DeviceTensor::output({width}), inverse = DeviceTensor::output({width}),
          d(dy, {rows, width}), dx(old_dx, {rows, width}), dalpha(old_dalpha, {width}), dalpha_alone(old_dalpha, {width});
      launch(DiceForward{epsilon, momentum, training, xt, at, rm, rv, y, mean, inverse, {}});
      if (rows == 0) {
        CHECK(rm.read() == running_mean);
        CHECK(mean.read() == running_mean);
        continue;
      }
      launch(DiceBackward{training, xt, at, mean, inverse, d, dx, dalpha, {}});
      launch(DiceBackward{training, xt, at, mean, inverse, d, {}, dalpha_alone, {}});
      std::vector<double> want_y(n), want_mean(width), want_inverse(width), want_rm(width), want_rv(width),
          want_dx(old_dx.begin(), old_dx.end()), want_dalpha(old_dalpha.begin(), old_dalpha.end());
      for (std::int64_t c = 0; c < width; ++c) {
        double m = 0, squares = 0;
        for (std::int64_t r = 0; r < rows; ++r) m += x[r * width + c] / static_cast<double>(rows);
        for (std::int64_t r = 0; r < rows; ++r) squares += (x[r * width + c] - m) * (x[r * width + c] - m);
        want_rm[c] = training ? 0.9 * running_mean[c] + 0.1 * m : running_mean[c];
        want_rv[c] = training && rows > 1 ? 0.9 * running_variance[c] + 0.1 * squares / (rows - 1) : running_variance[c];
        const double mu = training ? m : running_mean[c], s = 1 / std::sqrt((training ? squares / rows : running_variance[c]) + epsilon);
        want_mean[c] = mu;
        want_inverse[c] = s;
        double sum = 0, dot = 0;
        const auto element = [&](std::int64_t r, double& z, double& p, double& dz) {
          const double v = x[r * width + c];
          z = (v - mu) * s;
          p = 1 / (1 + std::exp(-z));
          dz = dy[r * width + c] * v * (1 - alpha[c]) * p * (1 - p);
        };
        for (std::int64_t r = 0; r < rows; ++r) {
          double z, p, dz;
          element(r, z, p, dz);
          want_y[r * width + c] = p * x[r * width + c] + alpha[c] * (1 - p) * x[r * width + c];
          want_dalpha[c] += static_cast<double>(dy[r * width + c]) * x[r * width + c] * (1 - p);
          sum += dz / rows;
          dot += dz * z / rows;
        }
        for (std::int64_t r = 0; r < rows; ++r) {
          double z, p, dz;
          element(r, z, p, dz);
          want_dx[r * width + c] += dy[r * width + c] * (p + alpha[c] * (1 - p)) + s * (training ? dz - sum - z * dot : dz);
        }
      }
      check_close(y.read(), want_y, rows);
      check_close(mean.read(), want_mean, rows);
      check_close(inverse.read(), want_inverse, rows);
      check_close(rm.read(), want_rm, rows);
      check_close(rv.read(), want_rv, rows);
      check_close(dx.read(), want_dx, 4.0 * rows);
      check_close(dalpha.read(), want_dalpha, rows);
      check_close(dalpha_alone.read(), want_dalpha, rows);
    }
}
