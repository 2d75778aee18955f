// Nearest codes. A block owns 64 rows and passes over the whole codebook in tiles of 64 codes: a 64 x 64 tile of products (float on the
// ordinary units; bf16 on mma.sync with the rows resident in shared memory and the codes arriving through cp.async) goes to shared memory;
// then a warp turns it into ||c||^2 - 2 x c and keeps the k best of each of its eight rows in registers, sorted across its lanes: a
// candidate that beats the k-th best is inserted by a ballot and a shift, in ascending order of index, so equal distances stay in that
// order. 2 rows codes width FLOPs; the codebook is read rows / 64 times, from the L2 cache: bound by arithmetic.
#include "base/kernels/nearest.h"
#include "cuda/nearest_tile.cuh"

namespace expctr::cuda {

namespace {

/// ||c||^2, a warp a code.
template <class T>
__global__ void __launch_bounds__(block_threads)
    squared_lengths_kernel(const T* codebook, std::int64_t codes, std::int64_t width, float* lengths) {
  const std::int64_t code = static_cast<std::int64_t>(blockIdx.x) * (block_threads / 32) + threadIdx.x / 32;
  if (code >= codes) return;
  const float sum = squared_length(codebook + code * width, width, static_cast<int>(threadIdx.x) % 32);
  if (threadIdx.x % 32 == 0) lengths[code] = sum;
}

template <class Kernel, class T>
void launch(Kernel kernel, std::size_t shared, const NearestCodes& args, Stream stream) {
  const std::int64_t rows = args.x.shape[0], width = args.x.shape[1], codes = args.codebook.shape[0];
  float* lengths = args.scratch.as<float>();
  squared_lengths_kernel<T>
      <<<blocks_for(codes, block_threads / 32), block_threads, 0, native(stream)>>>(args.codebook.as<const T>(), codes, width, lengths);
  check_launch("nearest_lengths");
  if (shared > 48 * 1024)
    EXPCTR_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  kernel<<<blocks_for(rows, nearest_rows), block_threads, shared, native(stream)>>>(
      {args.x.as<const T>(), args.codebook.as<const T>(), lengths, rows, codes, width, static_cast<int>(args.indices.shape[1]),
       args.indices.as<std::int32_t>(), args.distances.as<float>()});
  check_launch("nearest");
}

}  // namespace

/// ||c||^2 of every code.
template <>
std::size_t scratch_bytes(const NearestCodes& args) {
  return static_cast<std::size_t>(args.codebook.rows()) * sizeof(float);
}

template <>
void run(const NearestCodes& args, Stream stream) {
  const View &x = args.x, &codebook = args.codebook;
  require("nearest", x.dtype, {&codebook});
  require_f32("nearest", {&args.distances});
  require("nearest", DType::i32, {&args.indices});
  if (x.rank != 2 || codebook.rank != 2 || x.shape[1] != codebook.shape[1] || args.indices.rank != 2)
    throw ShapeError("cuda: nearest takes x [rows, width], codebook [codes, width] and indices [rows, k]");
  const std::int64_t k = args.indices.shape[1], width = x.shape[1];
  if (k < 1 || k > most_nearest || k > codebook.shape[0])
    throw ShapeError("cuda: nearest: k is " + std::to_string(k), "at least 1, at most 64 and the number of codes");
  require_scratch("nearest", args.scratch, scratch_bytes(args));
  if (x.shape[0] == 0) return;
  if (x.dtype == DType::f32) {
    const bool vector = width % 4 == 0 && aligned16(x.data) && aligned16(codebook.data);
    if (vector)
      launch<decltype(&nearest_f32_kernel<true>), float>(nearest_f32_kernel<true>, 0, args, stream);
    else
      launch<decltype(&nearest_f32_kernel<false>), float>(nearest_f32_kernel<false>, 0, args, stream);
    return;
  }
  require("nearest", DType::bf16, {&x});
  const std::size_t shared = nearest_bf16_shared(width);
  if (width > most_bf16_width)
    throw ShapeError("cuda: nearest: bf16 rows of " + std::to_string(width) + " elements",
                     "at most " + std::to_string(most_bf16_width) + ", or convert to f32");
  const bool vector = width % 8 == 0 && aligned16(x.data) && aligned16(codebook.data);
  if (vector)
    launch<decltype(&nearest_bf16_kernel<true>), std::uint16_t>(nearest_bf16_kernel<true>, shared, args, stream);
  else
    launch<decltype(&nearest_bf16_kernel<false>), std::uint16_t>(nearest_bf16_kernel<false>, shared, args, stream);
}

}  // namespace expctr::cuda
