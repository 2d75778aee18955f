#include "engine/ops/recurrent_library.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "base/error.h"
#include "cuda/recurrent_cudnn.h"
#include "engine/autograd/tape.h"
#include "engine/core/cudnn.h"
#include "engine/ops/elementwise.h"

namespace expctr {
namespace {

std::atomic<RecurrentLibrary>& chosen() {
  static std::atomic<RecurrentLibrary> library{RecurrentLibrary::own};
  return library;
}

[[maybe_unused]] float* floats(const Tensor& tensor) { return tensor.defined() ? tensor.view().as<float>() : nullptr; }

/// Adds a finished gradient to an accumulated one.
[[maybe_unused]] void add_to(const Tensor& slot, const Tensor& values) {
  if (slot.defined()) axpy(1.0, values, slot);
}

[[maybe_unused]] Tensor bytes(std::size_t count, Device device) {
  return Tensor::empty({static_cast<std::int64_t>(std::max<std::size_t>(count, 1))}, DType::u8, device);
}

}  // namespace

void set_recurrent_library(RecurrentLibrary library) {
  if (library == RecurrentLibrary::cudnn && !has_cudnn)
    throw UsageError("recurrent layers: this build has no cuDNN", "configure with -DEXPCTR_CUDNN=ON");
  chosen().store(library);
}

RecurrentLibrary recurrent_library() { return chosen().load(); }

RecurrentStates library_layer([[maybe_unused]] const char* op, [[maybe_unused]] RecurrentCell cell, [[maybe_unused]] const Tensor& x,
                              [[maybe_unused]] const RecurrentWeights& weights, [[maybe_unused]] const Tensor& lengths,
                              [[maybe_unused]] const Tensor& initial, [[maybe_unused]] const Tensor& initial_cell) {
  if constexpr (has_cudnn) {
    const std::int64_t batch = x.dim(0), time = x.dim(1), hidden = weights.hidden.dim(1);
    if (recurrent_library() != RecurrentLibrary::cudnn || cell == RecurrentCell::augru || !x.device().is_cuda() || x.dtype() != DType::f32)
      return {};
    if (batch == 0 || time == 0 || hidden == 0 || x.dim(2) == 0) return {};
    auto rows = std::make_shared<std::vector<std::int32_t>>(static_cast<std::size_t>(batch), static_cast<std::int32_t>(time));
    if (lengths.defined()) *rows = lengths.to_vector<std::int32_t>();
    for (const std::int32_t length : *rows)
      if (length < 1 || length > time) return {};
    const Tensor on_device = lengths.defined() ? lengths : Tensor::of(*rows, {batch}, x.device());
    const Stream stream = current_stream(x.device());
    const cuda::CudnnLayer layer{cell,
                                 static_cast<int>(batch),
                                 static_cast<int>(time),
                                 static_cast<int>(x.dim(2)),
                                 static_cast<int>(hidden),
                                 rows->data(),
                                 on_device.view().as<std::int32_t>()};
    const bool training = Tape::recording(), is_lstm = cell == RecurrentCell::lstm;
    const cuda::CudnnSizes sizes = cuda::cudnn_sizes(layer, training, stream);
    const Tensor packed = bytes(sizes.weights, x.device()), workspace = bytes(sizes.workspace, x.device()),
                 reserve = training ? bytes(sizes.reserve, x.device()) : Tensor();
    cuda::cudnn_pack(layer, {floats(weights.input), floats(weights.hidden), floats(weights.bias_input), floats(weights.bias_hidden)},
                     packed.data(), stream);
    // As in recurrent.cpp: one tensor for all outputs.
    const std::int64_t last_at = (batch * time * hidden + 63) / 64 * 64, cell_at = last_at + (batch * hidden + 63) / 64 * 64;
    const auto all_of = [=](const Tensor& from) { return from.slice_rows(0, batch * time * hidden).reshape({batch, time, hidden}); };
    const auto last_of = [=](const Tensor& from) { return from.slice_rows(last_at, batch * hidden).reshape({batch, hidden}); };
    const auto cell_of = [=](const Tensor& from) {
      return is_lstm ? from.slice_rows(cell_at, batch * hidden).reshape({batch, hidden}) : Tensor();
    };
    Tensor y = Tensor::empty({cell_at + batch * hidden}, DType::f32, x.device());
    cuda::cudnn_forward(layer,
                        {floats(x), floats(initial), floats(initial_cell), floats(all_of(y)), floats(last_of(y)), floats(cell_of(y)),
                         packed.data(), workspace.data(), training ? reserve.data() : nullptr},
                        stream);
    const Tensor plain = y.detached();
    y = record(op, y, {x, weights.input, weights.hidden, weights.bias_input, weights.bias_hidden, initial, initial_cell},
               [=](const Tensor& dy, const GradientSlots& d) {
                 // The closure keeps `rows` and `on_device`, which `layer` points into.
                 (void)rows;
                 (void)on_device;
                 const Tensor dx = x.empty_like(), dinitial = Tensor::empty({batch, hidden}, DType::f32, x.device()),
                              dinitial_cell = is_lstm ? dinitial.empty_like() : Tensor();
                 const Tensor dpacked = bytes(sizes.weights, x.device()), space = bytes(sizes.workspace, x.device());
                 cuda::cudnn_backward(
                     layer,
                     {floats(x), floats(initial), floats(initial_cell), floats(all_of(plain)), floats(all_of(dy)), floats(last_of(dy)),
                      floats(cell_of(dy)), floats(dx), floats(dinitial), floats(dinitial_cell), floats(d[1]), floats(d[2]), floats(d[3]),
                      floats(d[4]), packed.data(), dpacked.data(), space.data(), reserve.data()},
                     current_stream(x.device()));
                 // Padding gets no gradient.
                 add_to(d[0], lengths.defined() ? mask_padding(dx, lengths) : dx);
                 add_to(d[5], dinitial);
                 if (is_lstm) add_to(d[6], dinitial_cell);
               });
    return {all_of(y), last_of(y), cell_of(y)};
  } else {
    return {};
  }
}

}  // namespace expctr
