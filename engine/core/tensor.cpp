#include "engine/core/tensor.h"

#include <fmt/format.h>

#include <cstring>

#include "base/error.h"
#include "base/kernels/elementwise.h"
#include "base/kernels/layout.h"
#include "cuda/device.h"
#include "engine/autograd/row_gradient.h"
#include "engine/core/allocator.h"
#include "engine/core/build_info.h"
#include "engine/core/op_scope.h"
#include "engine/core/run.h"

namespace expctr {

Shape::Shape(std::initializer_list<std::int64_t> extents) : Shape(std::span<const std::int64_t>(extents.begin(), extents.size())) {}

Shape::Shape(std::span<const std::int64_t> extents) : rank_(static_cast<int>(extents.size())) {
  if (extents.size() > static_cast<std::size_t>(max_rank)) {
    throw ShapeError(fmt::format("a tensor of rank {} was asked for", extents.size()), fmt::format("the largest rank is {}", max_rank));
  }
  for (int i = 0; i < rank_; ++i) {
    if (extents[i] < 0) throw ShapeError(fmt::format("negative extent {}", extents[i]));
    extent_[i] = extents[i];
  }
}

std::int64_t Shape::size() const {
  std::int64_t n = 1;
  for (int i = 0; i < rank_; ++i) n *= extent_[i];
  return n;
}

bool Shape::operator==(const Shape& other) const {
  return rank_ == other.rank_ && std::equal(extent_, extent_ + rank_, other.extent_);
}

std::string Shape::text() const { return fmt::format("[{}]", fmt::join(extent_, extent_ + rank_, ", ")); }

struct Storage {
  Device device;
  void* data = nullptr;
  std::size_t bytes = 0;
  Storage(Device d, std::size_t n) : device(d), data(allocate_bytes(d, n)), bytes(n) {}
  ~Storage() { release_bytes(device, data, bytes); }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
};

// The gradient of a tensor and of all its views; memory comes with the first contribution.
struct GradientBuffer {
  Tensor buffer;
  std::int64_t size = 0;
  bool by_rows = false;
  RowGradient rows;
  Tensor owner;  // the leaf or output that the gradient belongs to, without this buffer
};

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  if (const int block = dtype_traits(dtype).block_elements; block > 1 && (shape.rank() == 0 || shape[-1] % block != 0)) {
    throw ShapeError(fmt::format("a {} tensor of shape {}", dtype_name(dtype), shape.text()), fmt::format("rows of {} come in blocks of {}", dtype_name(dtype), block));
  }
  Tensor tensor;
  tensor.shape_ = shape;
  fill_dense_strides(shape.rank(), shape.data(), tensor.stride_);
  tensor.dtype_ = dtype;
  tensor.device_ = device;
  try {
    tensor.storage_ = std::make_shared<Storage>(device, dtype_bytes(dtype, shape.size()));
  } catch (const ResourceError& error) {
    throw ResourceError(fmt::format("{}no room for {} {}: {}", OpScope::text(), dtype_name(dtype), shape.text(), error.what()));
  }
  return tensor;
}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Device device) {
  Tensor tensor = empty(shape, dtype, device);
  if (device.is_cuda()) {
    if constexpr (has_cuda) cuda::fill_bytes(tensor.data(), 0, tensor.bytes(), tensor.stream());
  } else if (tensor.bytes() != 0) {
    std::memset(tensor.data(), 0, tensor.bytes());
  }
  return tensor;
}

namespace {

void copy_bytes(void* destination, Device to, const void* source, Device from, std::size_t bytes) {
  if (bytes == 0) return;
  if (!to.is_cuda() && !from.is_cuda()) {
    std::memcpy(destination, source, bytes);
  } else if constexpr (has_cuda) {
    if (to.is_cuda() && from.is_cuda()) {
      cuda::copy_on_device(destination, source, bytes, current_stream(to));
    } else if (to.is_cuda()) {
      cuda::copy_to_device(destination, source, bytes, current_stream(to));
    } else {
      cuda::copy_to_host(destination, source, bytes, current_stream(from));
    }
  }
}

}  // namespace

template <class T> Tensor Tensor::of(std::span<const T> values, const Shape& shape, Device device) {
  if (static_cast<std::int64_t>(values.size()) != shape.size()) {
    throw ShapeError(fmt::format("{} values for a tensor of shape {}", values.size(), shape.text()));
  }
  return of_bytes(std::as_bytes(values), shape, DTypeOf<T>::value, device);
}
template Tensor Tensor::of(std::span<const float>, const Shape&, Device);
template Tensor Tensor::of(std::span<const double>, const Shape&, Device);
template Tensor Tensor::of(std::span<const std::int32_t>, const Shape&, Device);
template Tensor Tensor::of(std::span<const std::int64_t>, const Shape&, Device);
template Tensor Tensor::of(std::span<const std::uint8_t>, const Shape&, Device);

Tensor Tensor::of_bytes(std::span<const std::byte> bytes, const Shape& shape, DType dtype, Device device) {
  Tensor tensor = empty(shape, dtype, device);
  if (bytes.size() != tensor.bytes()) {
    throw ShapeError(fmt::format("{} bytes for a {} tensor of shape {}, which takes {}", bytes.size(), dtype_name(dtype), shape.text(), tensor.bytes()));
  }
  copy_bytes(tensor.data(), device, bytes.data(), cpu_device, bytes.size());
  return tensor;
}

namespace {

void* element(const std::shared_ptr<Storage>& storage, DType dtype, std::int64_t offset) {
  return storage == nullptr ? nullptr : static_cast<std::byte*>(storage->data) + dtype_bytes(dtype, offset);
}

int axis_of(const char* what, const Shape& shape, int axis) {
  const int at = axis < 0 ? axis + shape.rank() : axis;
  if (at < 0 || at >= shape.rank()) throw ShapeError(fmt::format("{}: axis {} of {}", what, axis, shape.text()), "axes count from 0, or from -1 backwards");
  return at;
}

}  // namespace

void* Tensor::data() const {
  if (!is_contiguous()) {
    throw ShapeError(fmt::format("a strided view {} {} was used as if it were dense", dtype_name(dtype_), shape_.text()), "take dense(x) first");
  }
  return element(storage_, dtype_, offset_);
}

View Tensor::view() const {
  View v;
  v.data = data();
  v.dtype = dtype_;
  v.rank = shape_.rank();
  for (int i = 0; i < v.rank; ++i) v.shape[i] = shape_[i];
  fill_dense_strides(v.rank, v.shape, v.stride);
  return v;
}

View Tensor::strided_view() const {
  View v;
  v.data = element(storage_, dtype_, offset_);
  v.dtype = dtype_;
  v.rank = shape_.rank();
  for (int i = 0; i < v.rank; ++i) {
    v.shape[i] = shape_[i];
    v.stride[i] = stride_[i];
  }
  return v;
}

Tensor Tensor::reshape(const Shape& shape) const {
  if (shape.size() != size()) throw ShapeError(fmt::format("reshape: {} to {}", shape_.text(), shape.text()), "the number of elements must stay the same");
  if (!is_dense()) {
    if (shape == shape_) return *this;
    throw ShapeError(fmt::format("reshape: a strided view {} to {}", shape_.text(), shape.text()), "take dense(x) first");
  }
  Tensor result = *this;
  result.shape_ = shape;
  fill_dense_strides(shape.rank(), shape.data(), result.stride_);
  fill_dense_strides(shape.rank(), shape.data(), result.gradient_stride_);
  return result;
}

Tensor Tensor::slice_rows(std::int64_t begin, std::int64_t count) const {
  if (rank() == 0 || begin < 0 || count < 0 || begin + count > dim(0)) {
    throw ShapeError(fmt::format("slice_rows: rows {} to {} of {}", begin, begin + count, shape_.text()));
  }
  return narrow(0, begin, count);
}

Tensor Tensor::narrow(int axis, std::int64_t begin, std::int64_t count) const {
  const int at = axis_of("narrow", shape_, axis);
  if (begin < 0 || count < 0 || begin > dim(at) - count) {
    throw ShapeError(fmt::format("narrow: {} to {} along axis {} of {}", begin, begin + count, axis, shape_.text()), "the range lies within the axis");
  }
  if (is_quantised(dtype_) && at != 0) {
    throw ShapeError(fmt::format("narrow: axis {} of {} {}", axis, dtype_name(dtype_), shape_.text()), "a block-quantised tensor can be cut along its rows only");
  }
  std::int64_t extents[max_rank];
  for (int i = 0; i < rank(); ++i) extents[i] = i == at ? count : dim(i);
  Tensor result = *this;
  result.shape_ = Shape(std::span<const std::int64_t>(extents, static_cast<std::size_t>(rank())));
  result.offset_ += begin * stride_[at];
  result.gradient_offset_ += begin * gradient_stride_[at];
  return result;
}

Tensor Tensor::select(int axis, std::int64_t at) const {
  const int dropped = axis_of("select", shape_, axis);
  if (at < 0 || at >= dim(dropped)) throw ShapeError(fmt::format("select: place {} along axis {} of {}", at, axis, shape_.text()));
  Tensor result = narrow(axis, at, 1);
  std::int64_t extents[max_rank];
  int rest = 0;
  for (int i = 0; i < rank(); ++i) {
    if (i == dropped) continue;
    extents[rest] = dim(i);
    result.stride_[rest] = stride_[i];
    result.gradient_stride_[rest] = gradient_stride_[i];
    ++rest;
  }
  result.shape_ = Shape(std::span<const std::int64_t>(extents, static_cast<std::size_t>(rest)));
  return result;
}

Tensor Tensor::transpose(int i, int j) const {
  const int a = axis_of("transpose", shape_, i), b = axis_of("transpose", shape_, j);
  if (is_quantised(dtype_) && a != b) {
    throw ShapeError(fmt::format("transpose: {} {}", dtype_name(dtype_), shape_.text()), "a block-quantised tensor has its rows as blocks; convert it first");
  }
  std::int64_t extents[max_rank];
  for (int k = 0; k < rank(); ++k) extents[k] = dim(k == a ? b : k == b ? a : k);
  Tensor result = *this;
  result.shape_ = Shape(std::span<const std::int64_t>(extents, static_cast<std::size_t>(rank())));
  std::swap(result.stride_[a], result.stride_[b]);
  std::swap(result.gradient_stride_[a], result.gradient_stride_[b]);
  return result;
}

Tensor Tensor::expand(const Shape& shape) const {
  const int added = shape.rank() - rank();
  bool fits = added >= 0 && !is_quantised(dtype_);
  for (int i = 0; fits && i < rank(); ++i) fits = dim(i) == 1 || dim(i) == shape[i + added];
  if (!fits) {
    throw ShapeError(fmt::format("expand: {} {} to {}", dtype_name(dtype_), shape_.text(), shape.text()),
                     "shapes are aligned at the right; axes of one element can be repeated, and new ones put in front");
  }
  Tensor result = *this;
  result.shape_ = shape;
  for (int i = 0; i < shape.rank(); ++i) {
    const bool kept = i >= added && (dim(i - added) == shape[i]);
    result.stride_[i] = kept ? stride_[i - added] : 0;
    result.gradient_stride_[i] = kept ? gradient_stride_[i - added] : 0;
  }
  return result;
}

Tensor Tensor::to(Device device) const {
  if (!defined() || device == device_) return *this;
  Tensor result = empty(shape_, dtype_, device);
  result.copy_from(*this);
  return result;
}

Tensor Tensor::clone() const {
  if (!defined()) return {};
  Tensor result = empty_like();
  result.copy_from(*this);
  return result;
}

Tensor Tensor::detached() const {
  Tensor result = *this;
  result.gradient_ = nullptr;
  return result;
}

namespace {

// Several places of an expanded tensor are one element: a copy into them has no meaning.
void require_writable(const char* what, const Tensor& tensor) {
  for (int i = 0; i < tensor.rank(); ++i) {
    if (tensor.dim(i) > 1 && tensor.stride(i) == 0)
      throw ShapeError(fmt::format("{}: {} is an expanded view, whose places share elements", what, tensor.shape().text()), "write into the tensor that was expanded");
  }
}

}  // namespace

template <class T> std::vector<T> Tensor::to_vector() const {
  if (DTypeOf<T>::value != dtype_) throw ShapeError(fmt::format("to_vector: the tensor is {}, not {}", dtype_name(dtype_), dtype_name(DTypeOf<T>::value)));
  if (!is_contiguous()) return clone().to_vector<T>();
  std::vector<T> values(static_cast<std::size_t>(size()));
  copy_bytes(values.data(), cpu_device, data(), device_, bytes());
  return values;
}
template std::vector<float> Tensor::to_vector() const;
template std::vector<double> Tensor::to_vector() const;
template std::vector<std::int32_t> Tensor::to_vector() const;
template std::vector<std::int64_t> Tensor::to_vector() const;
template std::vector<std::uint8_t> Tensor::to_vector() const;

float Tensor::item() const {
  if (size() != 1) throw ShapeError(fmt::format("item: the tensor is {}", shape_.text()), "only a tensor of one element has an item");
  return dtype_ == DType::f64 ? static_cast<float>(to_vector<double>()[0]) : to_vector<float>()[0];
}

void Tensor::copy_from(const Tensor& source) const {
  if (!(source.shape() == shape_) || source.dtype() != dtype_) {
    throw ShapeError(fmt::format("copy_from: {} {} into {} {}", dtype_name(source.dtype()), source.shape().text(), dtype_name(dtype_), shape_.text()));
  }
  if (is_contiguous() && source.is_contiguous()) return copy_bytes(data(), device_, source.data(), source.device(), bytes());
  if (!(source.device() == device_)) return copy_from((source.is_contiguous() ? source : source.clone()).to(device_));
  require_writable("copy_from", *this);
  run(device_, CopyStrided{false, source.strided_view(), strided_view()});
}

void Tensor::fill(double value) const {
  if (is_contiguous()) return run(device_, Fill{value, view()});
  Tensor one = empty({1}, dtype_, device_);
  one.fill(value);
  copy_from(one.expand(shape_));
}

Tensor& Tensor::require_gradient() {
  if (!is_floating(dtype_) && dtype_ != DType::bf16) {
    throw ShapeError(fmt::format("require_gradient: the tensor is {}", dtype_name(dtype_)), "only f32, f64 and bf16 tensors have gradients");
  }
  gradient_ = nullptr;
  auto buffer = std::make_shared<GradientBuffer>();
  buffer->owner = *this;
  buffer->size = size();
  gradient_ = std::move(buffer);
  gradient_offset_ = 0;
  fill_dense_strides(rank(), shape_.data(), gradient_stride_);
  return *this;
}

Tensor& Tensor::require_row_gradient() {
  if (rank() != 2) throw ShapeError(fmt::format("require_row_gradient: the tensor is {}", shape_.text()), "a table [rows, width] has a gradient by rows");
  require_gradient();
  gradient_->by_rows = true;
  return *this;
}

Tensor Tensor::gradient_owner() const {
  if (gradient_ == nullptr) return {};
  Tensor owner = gradient_->owner;
  owner.gradient_ = gradient_;
  fill_dense_strides(owner.rank(), owner.shape_.data(), owner.gradient_stride_);
  return owner;
}

bool Tensor::wants_row_gradient() const { return gradient_ != nullptr && gradient_->by_rows; }

RowGradient Tensor::row_gradient() const { return gradient_ == nullptr ? RowGradient() : gradient_->rows; }

void Tensor::set_row_gradient(const RowGradient& gradient) const {
  if (!wants_row_gradient()) throw Error("set_row_gradient: the tensor does not take a gradient by rows", "mark it with require_row_gradient()");
  gradient_->rows = gradient;
}

Tensor Tensor::gradient() const {
  if (gradient_ == nullptr) return {};
  if (gradient_->by_rows) {
    throw Error(fmt::format("a dense gradient was asked for of a tensor {} that takes a gradient by rows", shape_.text()),
                "ops other than look-ups need require_gradient() instead of require_row_gradient()");
  }
  if (!gradient_->buffer.defined()) gradient_->buffer = zeros({gradient_->size}, dtype_, device_);
  Tensor result = gradient_->buffer;
  result.offset_ = gradient_offset_;
  result.shape_ = shape_;
  std::copy(gradient_stride_, gradient_stride_ + max_rank, result.stride_);
  return result;
}

bool Tensor::has_gradient() const { return gradient_ != nullptr && (gradient_->buffer.defined() || gradient_->rows.rows.defined()); }

void Tensor::clear_gradient() const {
  if (gradient_ == nullptr) return;
  gradient_->buffer = Tensor();
  gradient_->rows = RowGradient();
}

void require_shape(const char* op, const char* name, const Tensor& tensor, const Shape& expected, const char* hint) {
  if (!(tensor.shape() == expected)) {
    throw ShapeError(fmt::format("{}: {} is {}, expected {}", op, name, tensor.shape().text(), expected.text()), hint);
  }
}

void require_rank(const char* op, const char* name, const Tensor& tensor, int rank) {
  if (tensor.rank() != rank) {
    throw ShapeError(fmt::format("{}: {} is {}, expected {} axes", op, name, tensor.shape().text(), rank));
  }
}

void require_same_place(const char* op, const Tensor& a, const Tensor& b) {
  if (!(a.device() == b.device()) || a.dtype() != b.dtype()) {
    throw ShapeError(fmt::format("{}: {} on {} meets {} on {}", op, dtype_name(a.dtype()), device_name(a.device()), dtype_name(b.dtype()), device_name(b.device())),
                     "bring both operands to one device and dtype first");
  }
}

void require_parameter(const char* op, const char* name, const Tensor& x, const Tensor& parameter) {
  if (!(x.device() == parameter.device()) || parameter.dtype() != parameter_dtype(x.dtype())) {
    throw ShapeError(fmt::format("{}: {} is {} on {}, x is {} on {}", op, name, dtype_name(parameter.dtype()), device_name(parameter.device()), dtype_name(x.dtype()),
                                 device_name(x.device())),
                     fmt::format("beside {} activations it is {}", dtype_name(x.dtype()), dtype_name(parameter_dtype(x.dtype()))));
  }
}

}  // namespace expctr
