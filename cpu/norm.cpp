// Normalisations. Row norms: a row is read twice, from the first-level cache the second time, so they are bounded by memory; large results
// go past the caches (cpu/stream.h). Gradients of
// gain and bias, and Dice's statistics, are sums over rows: a task owns a few columns and adds all rows in ascending order in double.
#include "base/kernels/norm.h"

#include <cmath>

#include "cpu/arguments.h"
#include "cpu/dispatch.h"
#include "cpu/float_math.h"
#include "cpu/run.h"
#include "cpu/stream.h"

namespace expctr::cpu {
namespace {

void require_vector(const char* op, const char* name, const View& vector, const View& x, std::int64_t size) {
  require(vector.dtype == x.dtype && vector.size() == size && present(vector), op,
          (std::string(name) + " must have x's dtype and " + std::to_string(size) + " elements").c_str(), {{"x", x}, {name, vector}});
}

/// body(first column, count) for blocks of at most column_grain columns.
template <class Body>
void for_columns(std::int64_t width, Body body) {
  for_pieces(width, column_grain, [&](std::int64_t begin, std::int64_t end) { body(begin, end - begin); });
}

}  // namespace

template <>
void run(const RmsNormForward& args, Stream) {
  const std::int64_t rows = args.x.rows(), width = args.x.width();
  require_alike("rms_norm", {{"x", args.x}, {"y", args.y}});
  require_vector("rms_norm", "gain", args.gain, args.x, width);
  require_vector("rms_norm", "inverse_rms", args.inverse_rms, args.x, rows);
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* gain = args.gain.as<const T>();
    const RowWriter<T> writer(args.y);
    for_rows(rows, width, writer.grain(), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* x = args.x.as<const T>() + row * width;
        T* y = writer.begin(row);
        const double squares = lane_sum<T>(width, [&](std::int64_t i) { return x[i] * x[i]; });
        const T inverse = static_cast<T>(1.0 / std::sqrt(squares / static_cast<double>(width) + args.epsilon));
        args.inverse_rms.as<T>()[row] = inverse;
        for (std::int64_t i = 0; i < width; ++i) y[i] = x[i] * inverse * gain[i];
        writer.end(row);
      }
      writer.finish();
    });
  });
}

template <>
std::size_t scratch_bytes(const RmsNormBackward&) {
  return 0;
}

template <>
void run(const RmsNormBackward& args, Stream) {
  const std::int64_t rows = args.x.rows(), width = args.x.width();
  require_alike("rms_norm backward", {{"x", args.x}, {"dy", args.dy}});
  require_vector("rms_norm backward", "gain", args.gain, args.x, width);
  require_vector("rms_norm backward", "inverse_rms", args.inverse_rms, args.x, rows);
  if (!args.dx.empty()) require_alike("rms_norm backward", {{"x", args.x}, {"dx", args.dx}});
  if (!args.dgain.empty()) require_vector("rms_norm backward", "dgain", args.dgain, args.x, width);
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *gain = args.gain.as<const T>(), *inverse_rms = args.inverse_rms.as<const T>();
    const T *x_all = args.x.as<const T>(), *dy_all = args.dy.as<const T>();
    if (!args.dx.empty()) {
      // dx = r (g dy - x r^2 mean(g dy x)), r = inverse_rms.
      for_rows(rows, width, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
          const T *x = x_all + row * width, *dy = dy_all + row * width;
          T* dx = args.dx.as<T>() + row * width;
          const T inverse = inverse_rms[row];
          const double dot = lane_sum<T>(width, [&](std::int64_t i) { return gain[i] * dy[i] * x[i]; });
          const T back = static_cast<T>(dot / static_cast<double>(width)) * inverse * inverse;
          for (std::int64_t i = 0; i < width; ++i) dx[i] += inverse * (gain[i] * dy[i] - x[i] * back);
        }
      });
    }
    if (!args.dgain.empty()) {
      for_columns(width, [&](std::int64_t first, std::int64_t count) {
        double sum[column_grain] = {};
        for (std::int64_t row = 0; row < rows; ++row) {
          const T *x = x_all + row * width + first, *dy = dy_all + row * width + first;
          const T inverse = inverse_rms[row];
          for (std::int64_t i = 0; i < count; ++i) sum[i] += static_cast<double>(dy[i] * (x[i] * inverse));
        }
        for (std::int64_t i = 0; i < count; ++i) args.dgain.as<T>()[first + i] += static_cast<T>(sum[i]);
      });
    }
  });
}

template <>
void run(const LayerNormForward& args, Stream) {
  const std::int64_t rows = args.x.rows(), width = args.x.width();
  require_alike("layer_norm", {{"x", args.x}, {"y", args.y}});
  require_vector("layer_norm", "gain", args.gain, args.x, width);
  require_vector("layer_norm", "bias", args.bias, args.x, width);
  require_vector("layer_norm", "mean", args.mean, args.x, rows);
  require_vector("layer_norm", "inverse_deviation", args.inverse_deviation, args.x, rows);
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *gain = args.gain.as<const T>(), *bias = args.bias.as<const T>();
    const RowWriter<T> writer(args.y);
    for_rows(rows, width, writer.grain(), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* x = args.x.as<const T>() + row * width;
        T* y = writer.begin(row);
        const T mean = static_cast<T>(lane_sum<T>(width, [&](std::int64_t i) { return x[i]; }) / static_cast<double>(width));
        const double squares = lane_sum<T>(width, [&](std::int64_t i) { return (x[i] - mean) * (x[i] - mean); });
        const T inverse = static_cast<T>(1.0 / std::sqrt(squares / static_cast<double>(width) + args.epsilon));
        args.mean.as<T>()[row] = mean;
        args.inverse_deviation.as<T>()[row] = inverse;
        for (std::int64_t i = 0; i < width; ++i) y[i] = (x[i] - mean) * inverse * gain[i] + bias[i];
        writer.end(row);
      }
      writer.finish();
    });
  });
}

template <>
std::size_t scratch_bytes(const LayerNormBackward&) {
  return 0;
}

template <>
void run(const LayerNormBackward& args, Stream) {
  const std::int64_t rows = args.x.rows(), width = args.x.width();
  require_alike("layer_norm backward", {{"x", args.x}, {"dy", args.dy}});
  require_vector("layer_norm backward", "gain", args.gain, args.x, width);
  require_vector("layer_norm backward", "mean", args.mean, args.x, rows);
  require_vector("layer_norm backward", "inverse_deviation", args.inverse_deviation, args.x, rows);
  if (!args.dx.empty()) require_alike("layer_norm backward", {{"x", args.x}, {"dx", args.dx}});
  if (!args.dgain.empty()) require_vector("layer_norm backward", "dgain", args.dgain, args.x, width);
  if (!args.dbias.empty()) require_vector("layer_norm backward", "dbias", args.dbias, args.x, width);
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T *gain = args.gain.as<const T>(), *means = args.mean.as<const T>(), *inverses = args.inverse_deviation.as<const T>();
    const T *x_all = args.x.as<const T>(), *dy_all = args.dy.as<const T>();
    if (!args.dx.empty()) {
      // dx = r (g dy - mean(g dy) - n mean(g dy n)), n = (x - mean) r.
      for_rows(rows, width, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
          const T *x = x_all + row * width, *dy = dy_all + row * width;
          T* dx = args.dx.as<T>() + row * width;
          const T mean = means[row], inverse = inverses[row];
          const double sum = lane_sum<T>(width, [&](std::int64_t i) { return gain[i] * dy[i]; });
          const double dot = lane_sum<T>(width, [&](std::int64_t i) { return gain[i] * dy[i] * ((x[i] - mean) * inverse); });
          const T shift = static_cast<T>(sum / static_cast<double>(width)), slope = static_cast<T>(dot / static_cast<double>(width));
          for (std::int64_t i = 0; i < width; ++i) dx[i] += inverse * (gain[i] * dy[i] - shift - (x[i] - mean) * inverse * slope);
        }
      });
    }
    if (args.dgain.empty() && args.dbias.empty()) return;
    for_columns(width, [&](std::int64_t first, std::int64_t count) {
      double gain_sum[column_grain] = {}, bias_sum[column_grain] = {};
      for (std::int64_t row = 0; row < rows; ++row) {
        const T *x = x_all + row * width + first, *dy = dy_all + row * width + first;
        const T mean = means[row], inverse = inverses[row];
        for (std::int64_t i = 0; i < count; ++i) {
          gain_sum[i] += static_cast<double>(dy[i] * ((x[i] - mean) * inverse));
          bias_sum[i] += static_cast<double>(dy[i]);
        }
      }
      for (std::int64_t i = 0; i < count; ++i) {
        if (!args.dgain.empty()) args.dgain.as<T>()[first + i] += static_cast<T>(gain_sum[i]);
        if (!args.dbias.empty()) args.dbias.as<T>()[first + i] += static_cast<T>(bias_sum[i]);
      }
    });
  });
}

template <>
std::size_t scratch_bytes(const DiceForward&) {
  return 0;
}

// A batch of one row has no unbiased variance: the running variance then stays as it is, while the running mean moves. An empty batch uses
// the running statistics.
template <>
void run(const DiceForward& args, Stream) {
  const std::int64_t rows = args.x.rows(), width = args.x.width();
  require_alike("dice", {{"x", args.x}, {"y", args.y}});
  for (const Operand& operand : Operands{{"alpha", args.alpha},
                                         {"running_mean", args.running_mean},
                                         {"running_variance", args.running_variance},
                                         {"mean", args.mean},
                                         {"inverse_deviation", args.inverse_deviation}})
    require_vector("dice", operand.name, operand.view, args.x, width);
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* alpha = args.alpha.as<const T>();
    T *means = args.mean.as<T>(), *inverses = args.inverse_deviation.as<T>();
    T *running_mean = args.running_mean.as<T>(), *running_variance = args.running_variance.as<T>();
    for_columns(width, [&](std::int64_t first, std::int64_t count) {
      if (!args.training || rows == 0) {
        for (std::int64_t i = first; i < first + count; ++i) {
          means[i] = running_mean[i];
          inverses[i] = static_cast<T>(1.0 / std::sqrt(static_cast<double>(running_variance[i]) + args.epsilon));
        }
        return;
      }
      const T* x = args.x.as<const T>() + first;
      const double n = static_cast<double>(rows);
      double mean[column_grain] = {}, squares[column_grain] = {};
      for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t i = 0; i < count; ++i) mean[i] += static_cast<double>(x[row * width + i]);
      for (std::int64_t i = 0; i < count; ++i) mean[i] /= n;
      for (std::int64_t row = 0; row < rows; ++row) {
        for (std::int64_t i = 0; i < count; ++i) {
          const double deviation = static_cast<double>(x[row * width + i]) - mean[i];
          squares[i] += deviation * deviation;
        }
      }
      for (std::int64_t i = 0; i < count; ++i) {
        means[first + i] = static_cast<T>(mean[i]);
        inverses[first + i] = static_cast<T>(1.0 / std::sqrt(squares[i] / n + args.epsilon));
        running_mean[first + i] += static_cast<T>(args.momentum * (mean[i] - static_cast<double>(running_mean[first + i])));
        if (rows > 1)
          running_variance[first + i] +=
              static_cast<T>(args.momentum * (squares[i] / (n - 1) - static_cast<double>(running_variance[first + i])));
      }
    });
    for_rows(rows, width, heavy_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* x = args.x.as<const T>() + row * width;
        T* y = args.y.as<T>() + row * width;
        for (std::int64_t i = 0; i < width; ++i) {
          const T p = float_math::sigmoid((x[i] - means[i]) * inverses[i]);
          y[i] = p * x[i] + alpha[i] * (T(1) - p) * x[i];
        }
      }
    });
  });
}

template <>
std::size_t scratch_bytes(const DiceBackward&) {
  return 0;
}

template <>
void run(const DiceBackward& args, Stream) {
  const std::int64_t rows = args.x.rows(), width = args.x.width();
  require_alike("dice backward", {{"x", args.x}, {"dy", args.dy}});
  for (const Operand& operand : Operands{{"alpha", args.alpha}, {"mean", args.mean}, {"inverse_deviation", args.inverse_deviation}})
    require_vector("dice backward", operand.name, operand.view, args.x, width);
  if (!args.dx.empty()) require_alike("dice backward", {{"x", args.x}, {"dx", args.dx}});
  if (!args.dalpha.empty()) require_vector("dice backward", "dalpha", args.dalpha, args.x, width);
  if (rows == 0) return;
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    for_columns(width, [&](std::int64_t first, std::int64_t count) {
      const T *alpha = args.alpha.as<const T>() + first, *mean = args.mean.as<const T>() + first;
      const T* inverse = args.inverse_deviation.as<const T>() + first;
      const T *x_all = args.x.as<const T>() + first, *dy_all = args.dy.as<const T>() + first;
      // With n = (x - mean) inverse and p = sigmoid(n): the gradient that reaches n is dy x (1 - alpha) p (1 - p).
      double normal_sum[column_grain] = {}, normal_dot[column_grain] = {}, alpha_sum[column_grain] = {};
      for (std::int64_t row = 0; row < rows; ++row) {
        const T *x = x_all + row * width, *dy = dy_all + row * width;
        for (std::int64_t i = 0; i < count; ++i) {
          const T n = (x[i] - mean[i]) * inverse[i], p = float_math::sigmoid(n), gated = dy[i] * x[i] * (T(1) - p);
          const T dn = gated * (T(1) - alpha[i]) * p;
          normal_sum[i] += static_cast<double>(dn);
          normal_dot[i] += static_cast<double>(dn * n);
          alpha_sum[i] += static_cast<double>(gated);
        }
      }
      if (!args.dalpha.empty())
        for (std::int64_t i = 0; i < count; ++i) args.dalpha.as<T>()[first + i] += static_cast<T>(alpha_sum[i]);
      if (args.dx.empty()) return;
      T shift[column_grain] = {}, slope[column_grain] = {};
      if (args.training) {
        for (std::int64_t i = 0; i < count; ++i) {
          shift[i] = static_cast<T>(normal_sum[i] / static_cast<double>(rows));
          slope[i] = static_cast<T>(normal_dot[i] / static_cast<double>(rows));
        }
      }
      for (std::int64_t row = 0; row < rows; ++row) {
        const T *x = x_all + row * width, *dy = dy_all + row * width;
        T* dx = args.dx.as<T>() + first + row * width;
        for (std::int64_t i = 0; i < count; ++i) {
          const T n = (x[i] - mean[i]) * inverse[i], p = float_math::sigmoid(n);
          const T dn = dy[i] * x[i] * (T(1) - alpha[i]) * p * (T(1) - p);
          dx[i] += dy[i] * (p + alpha[i] * (T(1) - p)) + inverse[i] * (dn - shift[i] - n * slope[i]);
        }
      }
    });
  });
}

}  // namespace expctr::cpu
