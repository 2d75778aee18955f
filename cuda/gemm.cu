// Matrix products through cuBLASLt. 2 m n k FLOPs over 4 (m k + k n + m n) bytes (half for bf16 operands): bound by arithmetic for large
// extents, by reading the weight when m is small. A row-major product is the column-major product of the transposes: c^T = op(b)^T op(a)^T.
#include <cublasLt.h>

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

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

using AlgorithmKey = std::array<std::int64_t, 14>;

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
  if (memory.data() == nullptr) memory = DeviceMemory(workspace_bytes + staging_bytes);
  return static_cast<char*>(memory.data());
}

std::uint32_t alignment_of(const void* pointer, std::int64_t row_bytes, std::int64_t batch_bytes) {
  const std::uint64_t bits =
      reinterpret_cast<std::uintptr_t>(pointer) | static_cast<std::uint64_t>(row_bytes) | static_cast<std::uint64_t>(batch_bytes);
  std::uint32_t alignment = 1;
  while (alignment < 256 && (bits & alignment) == 0) alignment *= 2;
  return alignment;
}

void make_layout(Layout& layout, cudaDataType type, std::int64_t rows, std::int64_t columns, std::int64_t stride, const Gemm& p) {
  check(cublasLtMatrixLayoutCreate(&layout.handle, type, static_cast<std::uint64_t>(columns), static_cast<std::uint64_t>(rows), stride),
        "cublasLtMatrixLayoutCreate");
  if (p.batches == 1) return;
  const std::int32_t count = static_cast<std::int32_t>(p.batches);
  const std::int64_t offset = rows * columns;
  check(cublasLtMatrixLayoutSetAttribute(layout.handle, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count), "batch count");
  check(cublasLtMatrixLayoutSetAttribute(layout.handle, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &offset, sizeof offset),
        "batch offset");
}

template <class T>
void describe(const Description& description, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check(cublasLtMatmulDescSetAttribute(description.handle, attribute, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
}

template <class T>
void prefer(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
  check(cublasLtMatmulPreferenceSetAttribute(preference.handle, attribute, &value, sizeof value), "cublasLtMatmulPreferenceSetAttribute");
}

/// c = beta c + bias: the product when k is 0.
__global__ void __launch_bounds__(block_threads)
    empty_product_kernel(float* c, const float* bias, float beta, std::int64_t elements, std::int64_t n) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (i < elements) c[i] = (beta == 0 ? 0.0f : beta * c[i]) + (bias == nullptr ? 0.0f : bias[i % n]);
}

}  // namespace

void* staging(Stream stream) {
  Library& lib = library();
  const std::lock_guard lock(lib.mutex);
  return workspace_of(lib, current_device(), stream) + workspace_bytes;
}

void release_workspace(Stream stream) noexcept {
  Library& lib = library();
  const std::lock_guard lock(lib.mutex);
  std::erase_if(lib.workspaces, [&](const auto& entry) { return entry.first.second == stream.handle; });
}

void gemm(const Gemm& p, Stream stream) {
  const std::int64_t elements = p.batches * p.m * p.n;
  if (elements == 0) return;
  if (p.k == 0) {
    empty_product_kernel<<<blocks_for(elements, block_threads), block_threads, 0, native(stream)>>>(p.c, p.bias, p.beta, elements, p.n);
    return check_launch("matmul");
  }
  const bool bf16 = p.operands == DType::bf16;
  const cudaDataType type = bf16 ? CUDA_R_16BF : CUDA_R_32F;
  const std::int64_t a_rows = p.transpose_a ? p.k : p.m, a_columns = p.transpose_a ? p.m : p.k, b_rows = p.transpose_b ? p.n : p.k,
                     b_columns = p.transpose_b ? p.k : p.n, a_stride = p.a_stride != 0 ? p.a_stride : a_columns,
                     b_stride = p.b_stride != 0 ? p.b_stride : b_columns, size = bf16 ? 2 : 4;

  Description description;
  check(cublasLtMatmulDescCreate(&description.handle, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
  // The library's first operand is our b.
  describe(description, CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  describe(description, CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (p.bias != nullptr) {
    describe(description, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    describe(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(p.bias));
  }
  Layout a, b, c;
  make_layout(a, type, a_rows, a_columns, a_stride, p);
  make_layout(b, type, b_rows, b_columns, b_stride, p);
  make_layout(c, CUDA_R_32F, p.m, p.n, p.n, p);

  const std::int64_t batch = p.batches > 1 ? 1 : 0;
  const std::uint32_t align_a = alignment_of(p.a, a_stride * size, batch * a_rows * a_columns * size),
                      align_b = alignment_of(p.b, b_stride * size, batch * b_rows * b_columns * size),
                      align_c = alignment_of(p.c, p.n * 4, batch * p.m * p.n * 4);
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
                              bf16,
                              p.batches,
                              a_stride,
                              b_stride,
                              p.beta != 0,
                              p.bias != nullptr,
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
