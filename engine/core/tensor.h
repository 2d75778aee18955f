// Tensors: reference-counted memory on one device, dense and row-major or a strided view of such memory, with an optional gradient.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/view.h"
#include "engine/core/device.h"

namespace expctr {

/// Extents, outermost first. At most max_rank of them.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> extents);
  explicit Shape(std::span<const std::int64_t> extents);
  int rank() const { return rank_; }
  std::int64_t operator[](int i) const { return extent_[i < 0 ? i + rank_ : i]; }
  std::int64_t size() const;
  bool operator==(const Shape& other) const;
  std::string text() const;  ///< "[3, 7]"
  const std::int64_t* data() const { return extent_; }

 private:
  int rank_ = 0;
  std::int64_t extent_[max_rank] = {};
};

struct Storage;
struct GradientBuffer;
struct RowGradient;

/// A handle: copies share memory. `reshape`, `slice_rows`, `narrow`, `transpose` and `expand` share memory and gradient with the original:
/// what is added to the gradient of a view arrives in the same places of the original's. Kernels take dense memory: `dense` (engine/ops/layout.h)
/// copies a strided view; every op does that to its operands.
class Tensor {
 public:
  Tensor() = default;
  static Tensor empty(const Shape& shape, DType dtype = DType::f32, Device device = {});
  static Tensor zeros(const Shape& shape, DType dtype = DType::f32, Device device = {});
  /// Copies values to the device; T is float, double, std::int32_t, std::int64_t or std::uint8_t, the dtype its own.
  template <class T> static Tensor of(std::span<const T> values, const Shape& shape, Device device = {});
  template <class T> static Tensor of(const std::vector<T>& values, const Shape& shape, Device device = {}) {
    return of(std::span<const T>(values), shape, device);
  }
  /// Copies raw bytes (block-quantised or 16-bit types too).
  static Tensor of_bytes(std::span<const std::byte> bytes, const Shape& shape, DType dtype, Device device = {});

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  std::int64_t dim(int i) const { return shape_[i]; }
  std::int64_t size() const { return shape_.size(); }
  std::int64_t width() const { return shape_.rank() == 0 ? 1 : shape_[-1]; }
  std::int64_t rows() const { return width() == 0 ? 0 : size() / width(); }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  Stream stream() const { return current_stream(device_); }

  /// The kernels' view; an undefined tensor gives an empty one. ShapeError for a strided tensor, which a kernel would read wrongly.
  View view() const;
  operator View() const { return view(); }
  /// The view with its strides, for the kernels that follow them.
  View strided_view() const;
  /// First element of dense memory; ShapeError for a strided tensor.
  void* data() const;
  std::size_t bytes() const { return dtype_bytes(dtype_, size()); }
  /// Row-major without gaps.
  bool is_contiguous() const { return has_dense_strides(rank(), shape_.data(), stride_); }
  /// Row-major without gaps, and so is the gradient if there is one: ready for a kernel, forward and backward.
  bool is_dense() const { return is_contiguous() && (gradient_ == nullptr || has_dense_strides(rank(), shape_.data(), gradient_stride_)); }
  /// Elements between neighbours along an axis; 0 along an expanded one.
  std::int64_t stride(int i) const { return stride_[i < 0 ? i + rank() : i]; }

  Tensor empty_like() const { return empty(shape_, dtype_, device_); }
  /// The same elements in another shape; ShapeError for a strided tensor (take `dense` of it first).
  Tensor reshape(const Shape& shape) const;
  /// Rows begin .. begin + count - 1 along the first axis.
  Tensor slice_rows(std::int64_t begin, std::int64_t count) const;
  /// Places begin .. begin + count - 1 along an axis (negative: from the end).
  Tensor narrow(int axis, std::int64_t begin, std::int64_t count) const;
  /// Place `at` along an axis, which disappears.
  Tensor select(int axis, std::int64_t at) const;
  /// Axes i and j (negative: from the end) change places.
  Tensor transpose(int i, int j) const;
  /// Repeats axes of one element, and new leading axes, without copying: shapes are aligned at the right. The gradient is summed over the
  /// repeated axes. Nothing can be written into an expanded tensor.
  Tensor expand(const Shape& shape) const;
  Tensor to(Device device) const;  ///< this tensor if it is there already; no gradient passes
  Tensor clone() const;
  Tensor detached() const;         ///< the same memory without a gradient
  template <class T> std::vector<T> to_vector() const;
  float item() const;              ///< the only element, as float
  void copy_from(const Tensor& source) const;  ///< same shape and dtype, any device
  void fill(double value) const;

  /// Marks a leaf: operations on it are recorded while a Tape is alive.
  Tensor& require_gradient();
  bool requires_gradient() const { return gradient_ != nullptr; }
  /// The accumulated gradient, shaped and strided like this tensor; zeros are made on first use. Undefined where none is required.
  /// Throws Error for a leaf that takes a row gradient.
  Tensor gradient() const;
  bool has_gradient() const;       ///< something has been accumulated
  void clear_gradient() const;

  /// Marks a leaf [rows, width] whose gradient is kept as a RowGradient (engine/autograd/row_gradient.h): for tables of which a step reads
  /// few rows. Only ops that look rows up (gather) can add to it.
  Tensor& require_row_gradient();
  bool wants_row_gradient() const;
  /// What has been accumulated; its tensors are undefined where there is nothing. `set_row_gradient` replaces it.
  RowGradient row_gradient() const;
  void set_row_gradient(const RowGradient& gradient) const;
  /// Whether two handles accumulate into one gradient (a view and its original do).
  bool shares_gradient(const Tensor& other) const { return gradient_ != nullptr && gradient_ == other.gradient_; }
  /// The leaf (or output of an op) that this tensor is a view of, as far as gradients go; undefined where none is required.
  Tensor gradient_owner() const;
  /// The same for all that share a gradient, distinct otherwise; null where none is required.
  const void* gradient_identity() const { return gradient_.get(); }

 private:
  friend class Tape;
  Shape shape_;
  DType dtype_ = DType::f32;
  Device device_;
  std::shared_ptr<Storage> storage_;
  std::int64_t offset_ = 0;                    ///< in elements (a multiple of the block for block formats)
  std::int64_t stride_[max_rank] = {};
  std::shared_ptr<GradientBuffer> gradient_;
  std::int64_t gradient_offset_ = 0;
  std::int64_t gradient_stride_[max_rank] = {};
};

/// Throws ShapeError "<op>: <name> is [a, b], expected [c, d]" with a hint.
void require_shape(const char* op, const char* name, const Tensor& tensor, const Shape& expected, const char* hint = "");
/// Throws ShapeError unless the tensor has this rank.
void require_rank(const char* op, const char* name, const Tensor& tensor, int rank);
void require_same_place(const char* op, const Tensor& a, const Tensor& b);
/// What parameters, statistics, log-sum-exps and losses are stored as beside activations of this dtype: f64 beside f64, else f32.
constexpr DType parameter_dtype(DType activations) { return activations == DType::f64 ? DType::f64 : DType::f32; }
/// Throws ShapeError unless the parameter is on x's device and stored as parameter_dtype(x's dtype).
void require_parameter(const char* op, const char* name, const Tensor& x, const Tensor& parameter);

}  // namespace expctr
