// cuDNN's recurrent networks, one layer, one direction, batch-major with lengths. cuDNN's gates are those of RecurrentCell, in the same
// order, and its GRU applies the reset gate after the product too. Descriptors are made for each call: host objects of a few microseconds.
#include "cuda/cudnn_handle.h"
#include "cuda/recurrent_cudnn.h"

namespace expctr::cuda {

namespace {

template <class Handle, cudnnStatus_t (*Create)(Handle*), cudnnStatus_t (*Destroy)(Handle)>
class Owned {
 public:
  Owned() { check_cudnn(Create(&handle_), "a cuDNN descriptor"); }
  ~Owned() { Destroy(handle_); }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};
using Network = Owned<cudnnRNNDescriptor_t, cudnnCreateRNNDescriptor, cudnnDestroyRNNDescriptor>;
using Sequences = Owned<cudnnRNNDataDescriptor_t, cudnnCreateRNNDataDescriptor, cudnnDestroyRNNDataDescriptor>;
using Extents = Owned<cudnnTensorDescriptor_t, cudnnCreateTensorDescriptor, cudnnDestroyTensorDescriptor>;
using Dropout = Owned<cudnnDropoutDescriptor_t, cudnnCreateDropoutDescriptor, cudnnDestroyDropoutDescriptor>;

/// The descriptors of a layer.
struct Description {
  cudnnHandle_t handle;
  Dropout dropout;
  Network network;
  Sequences x, states;
  Extents rows;  ///< [1, batch, hidden]
  std::size_t weight_bytes = 0;

  Description(const CudnnLayer& layer, Stream stream) : handle(cudnn_handle(stream)) {
    check_cudnn(cudnnSetDropoutDescriptor(dropout.get(), handle, 0.0f, nullptr, 0, 0), "cudnnSetDropoutDescriptor");
    const cudnnRNNMode_t mode = layer.cell == RecurrentCell::lstm ? CUDNN_LSTM : CUDNN_GRU;
    check_cudnn(cudnnSetRNNDescriptor_v8(network.get(), CUDNN_RNN_ALGO_STANDARD, mode, CUDNN_RNN_DOUBLE_BIAS, CUDNN_UNIDIRECTIONAL,
                                   CUDNN_LINEAR_INPUT, CUDNN_DATA_FLOAT, CUDNN_DATA_FLOAT, CUDNN_FMA_MATH, layer.width, layer.hidden,
                                   layer.hidden, 1, dropout.get(), CUDNN_RNN_PADDED_IO_ENABLED),
          "cudnnSetRNNDescriptor_v8");
    float padding = 0;
    for (const auto& [sequences, width] : {std::pair{x.get(), layer.width}, {states.get(), layer.hidden}})
      check_cudnn(cudnnSetRNNDataDescriptor(sequences, CUDNN_DATA_FLOAT, CUDNN_RNN_DATA_LAYOUT_BATCH_MAJOR_UNPACKED, layer.time, layer.batch,
                                      width, layer.lengths, &padding),
            "cudnnSetRNNDataDescriptor");
    const int extents[3] = {1, layer.batch, layer.hidden}, strides[3] = {layer.batch * layer.hidden, layer.hidden, 1};
    check_cudnn(cudnnSetTensorNdDescriptor(rows.get(), CUDNN_DATA_FLOAT, 3, extents, strides), "cudnnSetTensorNdDescriptor");
    check_cudnn(cudnnGetRNNWeightSpaceSize(handle, network.get(), &weight_bytes), "cudnnGetRNNWeightSpaceSize");
  }

  CudnnSizes sizes(bool training) const {
    CudnnSizes sizes;
    sizes.weights = weight_bytes;
    check_cudnn(cudnnGetRNNTempSpaceSizes(handle, network.get(), training ? CUDNN_FWD_MODE_TRAINING : CUDNN_FWD_MODE_INFERENCE, x.get(),
                                    &sizes.workspace, &sizes.reserve),
          "cudnnGetRNNTempSpaceSizes");
    return sizes;
  }
};

/// visit(parameter 0 to 3 in CudnnParameters' order, offset of a gate's part in it, elements, its place in cuDNN's memory).
template <class Visit>
void for_each_part(const Description& d, const CudnnLayer& layer, const void* weights, Visit visit) {
  const int gates = recurrent_gates(layer.cell);
  const Extents matrix_extents, bias_extents;
  for (int id = 0; id < 2 * gates; ++id) {
    void *matrix = nullptr, *bias = nullptr;
    check_cudnn(cudnnGetRNNWeightParams(d.handle, d.network.get(), 0, d.weight_bytes, weights, id, matrix_extents.get(), &matrix,
                                  bias_extents.get(), &bias),
          "cudnnGetRNNWeightParams");
    const bool hidden = id >= gates;
    const std::int64_t gate = id % gates, elements = static_cast<std::int64_t>(layer.hidden) * (hidden ? layer.hidden : layer.width);
    visit(hidden ? 1 : 0, gate * elements, elements, static_cast<float*>(matrix));
    visit(hidden ? 3 : 2, gate * layer.hidden, static_cast<std::int64_t>(layer.hidden), static_cast<float*>(bias));
  }
}

__global__ void __launch_bounds__(block_threads) add_kernel(std::int64_t n, const float* x, float* y) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (i < n) y[i] += x[i];
}

}  // namespace

CudnnSizes cudnn_sizes(const CudnnLayer& layer, bool training, Stream stream) { return Description(layer, stream).sizes(training); }

void cudnn_pack(const CudnnLayer& layer, const CudnnParameters& parameters, void* weights, Stream stream) {
  const Description d(layer, stream);
  EXPCTR_CUDA_CHECK(cudaMemsetAsync(weights, 0, d.weight_bytes, native(stream)));
  const float* const sources[4] = {parameters.weight_input, parameters.weight_hidden, parameters.bias_input, parameters.bias_hidden};
  for_each_part(d, layer, weights, [&](int parameter, std::int64_t offset, std::int64_t elements, float* part) {
    if (sources[parameter] == nullptr || elements == 0) return;
    EXPCTR_CUDA_CHECK(cudaMemcpyAsync(part, sources[parameter] + offset, static_cast<std::size_t>(elements) * sizeof(float),
                                      cudaMemcpyDeviceToDevice, native(stream)));
  });
}

void cudnn_forward(const CudnnLayer& layer, const CudnnForward& pass, Stream stream) {
  const Description d(layer, stream);
  const bool training = pass.reserve != nullptr;
  const CudnnSizes sizes = d.sizes(training);
  check_cudnn(cudnnRNNForward(d.handle, d.network.get(), training ? CUDNN_FWD_MODE_TRAINING : CUDNN_FWD_MODE_INFERENCE, layer.device_lengths,
                        d.x.get(), pass.x, d.states.get(), pass.states, d.rows.get(), pass.initial, pass.last, d.rows.get(),
                        pass.initial_cell, pass.last_cell, sizes.weights, pass.weights, sizes.workspace, pass.workspace,
                        training ? sizes.reserve : 0, pass.reserve),
        "cudnnRNNForward");
}

void cudnn_backward(const CudnnLayer& layer, const CudnnBackward& pass, Stream stream) {
  const Description d(layer, stream);
  const CudnnSizes sizes = d.sizes(true);
  check_cudnn(cudnnRNNBackwardData_v8(d.handle, d.network.get(), layer.device_lengths, d.states.get(), pass.states, pass.dstates, d.x.get(),
                                pass.dx, d.rows.get(), pass.initial, pass.dlast, pass.dinitial, d.rows.get(), pass.initial_cell,
                                pass.dlast_cell, pass.dinitial_cell, sizes.weights, pass.weights, sizes.workspace, pass.workspace,
                                sizes.reserve, pass.reserve),
        "cudnnRNNBackwardData_v8");
  EXPCTR_CUDA_CHECK(cudaMemsetAsync(pass.dweights, 0, d.weight_bytes, native(stream)));
  check_cudnn(cudnnRNNBackwardWeights_v8(d.handle, d.network.get(), CUDNN_WGRAD_MODE_ADD, layer.device_lengths, d.x.get(), pass.x, d.rows.get(),
                                   pass.initial, d.states.get(), pass.states, sizes.weights, pass.dweights, sizes.workspace, pass.workspace,
                                   sizes.reserve, pass.reserve),
        "cudnnRNNBackwardWeights_v8");
  float* const targets[4] = {pass.dweight_input, pass.dweight_hidden, pass.dbias_input, pass.dbias_hidden};
  for_each_part(d, layer, pass.dweights, [&](int parameter, std::int64_t offset, std::int64_t elements, float* part) {
    if (targets[parameter] == nullptr || elements == 0) return;
    add_kernel<<<blocks_for(elements, block_threads), block_threads, 0, native(stream)>>>(elements, part, targets[parameter] + offset);
    check_launch("cudnn_gradient");
  });
}

}  // namespace expctr::cuda
