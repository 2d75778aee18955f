// Matrix products through cuBLASLt. 2 m n k FLOPs over 4 (m k + k n + m n) bytes (half of what is bf16): bound by arithmetic for large
// extents, by reading the weight when m is small. A row-major product is the column-major product of the transposes: c^T = op(b)^T op(a)^T.
#include <cublasLt.h>

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "base/blocks.h"
#include "base/scalar_math.h"
#include "cuda/device.h"
#include "cuda/gemm.h"
#include "cuda/launch.cuh"

namespace expctr::cuda {

namespace {

void check(cublasStatus_t status, const char* expression) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const std::string text = std::string("cuda: ") + expression + " failed: " + cublasLtGetStatusString(status);
  if (status == CUBLAS_STATUS_ALLOC_FAILED) throw ResourceError(text, "use a smaller batch");
  throw Error(text, "an earlier kernel fault on this stream, or an unsupported device");
}

template <class Handle, cublasStatus_t (*Destroy)(Handle)>
struct Owned {
  Handle handle = nullptr;
  Owned() = default;
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() {
    if (handle != nullptr) Destroy(handle);
  }
};
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Description = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

constexpr std::size_t workspace_bytes = std::size_t{32} << 20;

using AlgorithmKey = std::array<std::int64_t, 17>;

/// What lives as long as the process: a handle a device, a workspace a stream, the chosen algorithms.
struct Library {
  std::mutex mutex;
  std::map<int, cublasLtHandle_t> handles;
  std::map<std::pair<int, void*>, DeviceMemory> workspaces;
  std::map<AlgorithmKey, cublasLtMatmulAlgo_t> algorithms;
};

// Never destroyed: the driver may be gone before static destructors run.
Library& library() {
  static Library* instance = new Library;
  return *instance;
}

int current_device() {
  int device = 0;
  EXPCTR_CUDA_CHECK(cudaGetDevice(&device));
  return device;
}

cublasLtHandle_t handle_of(Library& lib, int device) {
  cublasLtHandle_t& handle = lib.handles[device];
  if (handle == nullptr) check(cublasLtCreate(&handle), "cublasLtCreate");
  return handle;
}

char* workspace_of(Library& lib, int device, Stream stream) {
  DeviceMemory& memory = lib.workspaces[{device, stream.handle}];
  if (memory.data() == nullptr) memory = DeviceMemory(workspace_bytes);
  return static_cast<char*>(memory.data());
}

std::uint32_t alignment_of(const void* pointer, std::int64_t row_bytes, std::int64_t batch_bytes) {
  const std::uint64_t bits =
      reinterpret_cast<std::uintptr_t>(pointer) | static_cast<std::uint64_t>(row_bytes) | static_cast<std::uint64_t>(batch_bytes);
  std::uint32_t alignment = 1;
  while (alignment < 256 && (bits & alignment) == 0) alignment *= 2;
  return alignment;
}

void make_layout(Layout& layout, cudaDataType type, std::int64_t rows, std::int64_t columns, std::int64_t stride, std::int64_t batches,
                 bool shared) {
  check(cublasLtMatrixLayoutCreate(&layout.handle, type, static_cast<std::uint64_t>(columns), static_cast<std::uint64_t>(rows), stride),
        "cublasLtMatrixLayoutCreate");
  if (batches == 1) return;
  const std::int32_t count = static_cast<std::int32_t>(batches);
  const std::int64_t offset = shared ? 0 : rows * stride;
  check(cublasLtMatrixLayoutSetAttribute(layout.handle, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count), "batch count");
  check(cublasLtMatrixLayoutSetAttribute(layout.handle, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &offset, sizeof offset),
        "batch offset");
}

cublasLtEpilogue_t epilogue_of(const Gemm& p) {
  const bool bias = p.bias != nullptr;
  switch (p.activation) {
    case Activation::none:
      return bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    case Activation::relu:
      return bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
    case Activation::gelu_tanh:
      break;
    case Activation::gelu:
      throw Error("cuda: cuBLASLt has no exact GELU", "use gelu_tanh, or apply gelu to the product");
  }
  if (p.before_activation != nullptr) return bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
  return bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
}

template <class T>
void describe(const Description& description, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check(cublasLtMatmulDescSetAttribute(description.handle, attribute, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
}

template <class T>
void prefer(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
  check(cublasLtMatmulPreferenceSetAttribute(preference.handle, attribute, &value, sizeof value), "cublasLtMatmulPreferenceSetAttribute");
}

__device__ __forceinline__ float load(const float* from, std::int64_t i) { return from[i]; }
__device__ __forceinline__ float load(const std::uint16_t* from, std::int64_t i) { return float_of_bf16(from[i]); }
__device__ __forceinline__ void store(float* to, std::int64_t i, float value) { to[i] = value; }
__device__ __forceinline__ void store(std::uint16_t* to, std::int64_t i, float value) { to[i] = bf16_of_float(value); }

/// c = activation(beta c + bias): the product when k is 0.
template <class T>
__global__ void __launch_bounds__(block_threads) empty_product_kernel(T* c, const T* bias, T* before, float beta, Activation activation,
                                                                      std::int64_t elements, std::int64_t n, std::int64_t stride) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (i >= elements) return;
  const std::int64_t at = i / n * stride + i % n;
  float value = (beta == 0 ? 0.0f : beta * load(c, at)) + (bias == nullptr ? 0.0f : load(bias, i % n));
  if (before != nullptr) store(before, i, value);
  if (activation == Activation::relu) value = fmaxf(value, 0.0f);
  if (activation == Activation::gelu_tanh) value = scalar::gelu_tanh(value);
  store(c, at, value);
}

template <class T>
void empty_product(const Gemm& p, std::int64_t elements, Stream stream) {
  empty_product_kernel<T><<<blocks_for(elements, block_threads), block_threads, 0, native(stream)>>>(
      static_cast<T*>(p.c), static_cast<const T*>(p.bias), static_cast<T*>(p.before_activation), p.beta, p.activation, elements, p.n,
      p.c_stride != 0 ? p.c_stride : p.n);
  check_launch("matmul");
}

}  // namespace

void release_workspace(Stream stream) noexcept {
  Library& lib = library();
  const std::lock_guard lock(lib.mutex);
  std::erase_if(lib.workspaces, [&](const auto& entry) { return entry.first.second == stream.handle; });
}

void gemm(const Gemm& p, Stream stream) {
  const std::int64_t elements = p.batches * p.m * p.n;
  if (elements == 0) return;
  if (p.k == 0) {
    return p.result == DType::bf16 ? empty_product<std::uint16_t>(p, elements, stream) : empty_product<float>(p, elements, stream);
  }
  const bool bf16 = p.operands == DType::bf16, bf16_result = p.result == DType::bf16;
  const cudaDataType type = bf16 ? CUDA_R_16BF : CUDA_R_32F, result_type = bf16_result ? CUDA_R_16BF : CUDA_R_32F;
  const std::int64_t a_rows = p.transpose_a ? p.k : p.m, a_columns = p.transpose_a ? p.m : p.k, b_rows = p.transpose_b ? p.n : p.k,
                     b_columns = p.transpose_b ? p.k : p.n, a_stride = p.a_stride != 0 ? p.a_stride : a_columns,
                     b_stride = p.b_stride != 0 ? p.b_stride : b_columns, c_stride = p.c_stride != 0 ? p.c_stride : p.n,
                     size = bf16 ? 2 : 4, result_size = bf16_result ? 2 : 4;

  Description description;
  check(cublasLtMatmulDescCreate(&description.handle, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
  // The library's first operand is our b.
  describe(description, CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  describe(description, CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  const cublasLtEpilogue_t epilogue = epilogue_of(p);
  describe(description, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
  if (p.bias != nullptr) {
    describe(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
    describe(description, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, result_type);
  }
  if (p.before_activation != nullptr) {
    describe(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, p.before_activation);
    describe(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.n);
    if (p.batches > 1) describe(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, p.m * p.n);
  }
  Layout a, b, c;
  make_layout(a, type, a_rows, a_columns, a_stride, p.batches, p.share_a);
  make_layout(b, type, b_rows, b_columns, b_stride, p.batches, p.share_b);
  make_layout(c, result_type, p.m, p.n, c_stride, p.batches, false);

  const std::int64_t batch = p.batches > 1 ? 1 : 0;
  const std::uint32_t align_a = alignment_of(p.a, a_stride * size, p.share_a ? 0 : batch * a_rows * a_stride * size),
                      align_b = alignment_of(p.b, b_stride * size, p.share_b ? 0 : batch * b_rows * b_stride * size),
                      align_c = alignment_of(p.c, c_stride * result_size, batch * p.m * c_stride * result_size);
  Library& lib = library();
  cublasLtHandle_t handle = nullptr;
  char* workspace = nullptr;
  cublasLtMatmulAlgo_t algorithm;
  {
    const std::lock_guard lock(lib.mutex);
    const int device = current_device();
    handle = handle_of(lib, device);
    workspace = workspace_of(lib, device, stream);
    const AlgorithmKey key = {device,
                              p.m,
                              p.n,
                              p.k,
                              p.transpose_a * 2 + p.transpose_b,
                              bf16 * 2 + bf16_result,
                              p.batches,
                              p.share_a * 2 + p.share_b,
                              a_stride,
                              b_stride,
                              c_stride,
                              p.beta != 0,
                              p.bias != nullptr,
                              static_cast<std::int64_t>(epilogue),
                              align_a,
                              align_b,
                              align_c};
    const auto found = lib.algorithms.find(key);
    if (found != lib.algorithms.end()) {
      algorithm = found->second;
    } else {
      Preference preference;
      check(cublasLtMatmulPreferenceCreate(&preference.handle), "cublasLtMatmulPreferenceCreate");
      prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{workspace_bytes});
      // Split-k in place adds with atomics, so its order varies from run to run.
      prefer(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
             static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE | CUBLASLT_REDUCTION_SCHEME_NONE));
      prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, align_b);
      prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, align_a);
      prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, align_c);
      prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, align_c);
      cublasLtMatmulHeuristicResult_t result{};
      int results = 0;
      check(cublasLtMatmulAlgoGetHeuristic(handle, description.handle, b.handle, a.handle, c.handle, c.handle, preference.handle, 1,
                                           &result, &results),
            "cublasLtMatmulAlgoGetHeuristic");
      if (results == 0)
        throw Error("cuda: cuBLASLt has no algorithm for a product of [" + std::to_string(p.m) + ", " + std::to_string(p.k) + "] and [" +
                        std::to_string(p.k) + ", " + std::to_string(p.n) + "]",
                    "use mode f32");
      algorithm = result.algo;
      lib.algorithms.emplace(key, algorithm);
    }
  }
  check(cublasLtMatmul(handle, description.handle, &p.alpha, p.b, b.handle, p.a, a.handle, &p.beta, p.c, c.handle, p.c, c.handle,
                       &algorithm, workspace, workspace_bytes, native(stream)),
        "cublasLtMatmul");
}

}  // namespace expctr::cuda
