// Packing of frozen weights (once a weight, at load), and their values as f32 a slice of rows at a time for mode f32. Bytes: the source and
// the packed weight; a slice: the packed rows and 4 bytes an element. Memory bound; neither is on the path of mode bf16.
#include "cuda/linear_format.cuh"
#include "cuda/linear_weight.h"
#include "cuda/storage.cuh"

namespace expctr::cuda {

namespace {

/// A thread a unit: reads its block, writes the unit's parts of all planes.
template <class F>
__global__ void __launch_bounds__(block_threads)
    pack_planes_kernel(const typename F::Block* blocks, std::int64_t outputs, std::int64_t total, Planes planes) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (at >= total) return;
  const std::int64_t row = at % planes.rows, unit = at / planes.rows, slot = unit * planes.rows + side_slot(row);
  constexpr int units_of_block = F::elements / unit_elements;
  std::uint32_t codes[F::code_bytes / 4] = {}, high[2] = {}, scales = 0, super = 0;
  if (row < outputs) {
    const typename F::Block& block = blocks[row * (planes.units / units_of_block) + unit / units_of_block];
    const int u = static_cast<int>(unit % units_of_block);
#pragma unroll
    for (int i = 0; i < unit_elements; ++i) {
      const std::uint32_t code = static_cast<std::uint32_t>(stored_code(block, u * unit_elements + i));
      const int chunk = i / 8, pair = i % 8 / 2, odd = 16 * (i % 2);
      if constexpr (F::code_bytes == 32) {
        codes[i / 4] |= code << (8 * (i % 4));
      } else {
        codes[chunk] |= (code & 15u) << (4 * pair + odd);
        if constexpr (F::high_bits == 1) high[0] |= (code >> 4) << (4 * chunk + pair + odd);
        if constexpr (F::high_bits == 2) high[chunk / 2] |= (code >> 4) << (2 * (4 * (chunk & 1) + pair) + odd);
      }
    }
    scales = stored_scales(block, u);
    super = stored_super(block);
  }
  uint4* to = reinterpret_cast<uint4*>(const_cast<unsigned char*>(planes.codes));
  to[codes_at<F>(unit, 0, planes.rows, row)] = make_uint4(codes[0], codes[1], codes[2], codes[3]);
  if constexpr (F::code_bytes == 32) to[codes_at<F>(unit, 1, planes.rows, row)] = make_uint4(codes[4], codes[5], codes[6], codes[7]);
  unsigned char* high_at = const_cast<unsigned char*>(planes.high) + slot * F::high_bytes;
  if constexpr (F::high_bits == 1) *reinterpret_cast<std::uint32_t*>(high_at) = high[0];
  if constexpr (F::high_bits == 2) *reinterpret_cast<uint2*>(high_at) = make_uint2(high[0], high[1]);
  unsigned char* scales_at = const_cast<unsigned char*>(planes.scales) + slot * F::scale_bytes;
  if constexpr (F::scale_bytes == 2)
    *reinterpret_cast<std::uint16_t*>(scales_at) = static_cast<std::uint16_t>(scales);
  else
    *reinterpret_cast<std::uint32_t*>(scales_at) = scales;
  if constexpr (F::super_bytes != 0)
    if (unit % 8 == 0)
      reinterpret_cast<std::uint32_t*>(const_cast<unsigned char*>(planes.supers))[unit / 8 * planes.rows + side_slot(row)] = super;
}

/// values[row - first][...] = the unit's 32 values; a thread a chunk of eight.
template <class F>
__global__ void __launch_bounds__(block_threads) unpack_planes_kernel(Planes planes, std::int64_t first, std::int64_t rows, float* values) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (at >= rows * planes.units * 4) return;
  const int chunk = static_cast<int>(at & 3);
  const std::int64_t unit = (at >> 2) % planes.units, row = (at >> 2) / planes.units, slot = unit * planes.rows + side_slot(first + row);
  uint2 codes = make_uint2(0, 0);
  if constexpr (F::code_bytes == 32)
    codes = reinterpret_cast<const uint2*>(planes.codes)[codes_at<F>(unit, chunk / 2, planes.rows, first + row) * 2 + chunk % 2];
  else
    codes.x = reinterpret_cast<const std::uint32_t*>(planes.codes)[codes_at<F>(unit, 0, planes.rows, first + row) * 4 + chunk];
  std::uint32_t high = 0, scales, super = 0;
  if constexpr (F::high_bits == 1) high = reinterpret_cast<const std::uint32_t*>(planes.high)[slot];
  if constexpr (F::high_bits == 2) high = reinterpret_cast<const std::uint32_t*>(planes.high)[slot * 2 + chunk / 2];
  if constexpr (F::scale_bytes == 2)
    scales = reinterpret_cast<const std::uint16_t*>(planes.scales)[slot];
  else
    scales = reinterpret_cast<const std::uint32_t*>(planes.scales)[slot];
  if constexpr (F::super_bytes != 0)
    super = reinterpret_cast<const std::uint32_t*>(planes.supers)[unit / 8 * planes.rows + side_slot(first + row)];
  const ScaleOffset s = scale_of<F>(scales, super, chunk);
  float4* to = reinterpret_cast<float4*>(values + (row * planes.units + unit) * unit_elements + chunk * 8);
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const float2 a = pair_values<F>(codes, high, s, chunk, i), b = pair_values<F>(codes, high, s, chunk, i + 1);
    to[i / 2] = make_float4(a.x, a.y, b.x, b.y);
  }
}

/// Rows of f32 or bf16 as bf16 rows of `stride` elements, zero beyond `width`; a thread 8 elements.
template <bool FromFloat>
__global__ void __launch_bounds__(block_threads)
    bf16_rows_kernel(const void* from, std::int64_t width, std::int64_t stride, std::int64_t chunks, bool vector, uint4* to) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (at >= chunks) return;
  const std::int64_t row = at / (stride / 8), column = at % (stride / 8) * 8, start = row * width + column;
  std::uint16_t values[8];
  if constexpr (FromFloat) {
    const float* source = static_cast<const float*>(from) + start;
    float loaded[8];
    if (vector) {
      const float4 a = reinterpret_cast<const float4*>(source)[0], b = reinterpret_cast<const float4*>(source)[1];
      loaded[0] = a.x, loaded[1] = a.y, loaded[2] = a.z, loaded[3] = a.w, loaded[4] = b.x, loaded[5] = b.y, loaded[6] = b.z,
      loaded[7] = b.w;
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) loaded[i] = column + i < width ? source[i] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] = bf16_of_float(loaded[i]);
  } else {
    const std::uint16_t* source = static_cast<const std::uint16_t*>(from) + start;
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] = column + i < width ? source[i] : std::uint16_t{0};
  }
  const auto word = [&](int i) { return values[2 * i] | static_cast<std::uint32_t>(values[2 * i + 1]) << 16; };
  to[at] = make_uint4(word(0), word(1), word(2), word(3));
}

template <class T>
__device__ __forceinline__ void store_plain(T* to, std::int64_t i, float value) {
  if constexpr (sizeof(T) == 2)
    to[i] = bf16_of_float(value);
  else
    to[i] = value;
}

/// Rows of any plain type as f32 or bf16 rows of another stride, zero beyond `width`.
template <class Storage, class T>
__global__ void __launch_bounds__(block_threads) convert_rows_kernel(const void* from, std::int64_t from_stride, std::int64_t width,
                                                                     std::int64_t elements, std::int64_t to_stride, T* to) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (at >= elements) return;
  const std::int64_t row = at / to_stride, column = at % to_stride;
  store_plain(to, at, column < width ? static_cast<float>(Storage::load(from, row * from_stride + column)) : 0.0f);
}

template <class T>
void convert_rows(DType dtype, const void* from, std::int64_t from_stride, std::int64_t rows, std::int64_t width, std::int64_t to_stride,
                  T* to, Stream stream) {
  const std::int64_t elements = rows * to_stride;
  if (elements == 0) return;
  const auto launch = [&](auto storage) {
    convert_rows_kernel<decltype(storage), T>
        <<<blocks_for(elements, block_threads), block_threads, 0, native(stream)>>>(from, from_stride, width, elements, to_stride, to);
    check_launch("pack_weight");
  };
  switch (dtype) {
    case DType::f32:
      return launch(PlainStorage<float>{});
    case DType::f64:
      return launch(PlainStorage<double>{});
    case DType::bf16:
      return launch(Bf16Storage{});
    case DType::f16:
      return launch(F16Storage{});
    default:
      throw Error(std::string("cuda: pack_weight: a weight of type ") + dtype_name(dtype), "convert it to f32 first");
  }
}

}  // namespace

std::size_t packed_weight_bytes(std::int64_t outputs, std::int64_t inputs, DType dtype, ComputeMode mode) {
  if (mode == ComputeMode::int8) throw Error("cuda: int8 products exist on the CPU only", "choose llm.compute: bf16");
  if (is_quantised(dtype)) {
    std::size_t bytes = 0;
    dispatch_format(dtype, [&](auto format) { bytes = plane_sizes<decltype(format)>(outputs, inputs).bytes(); });
    return bytes;
  }
  PackedWeight weight;
  weight.inputs = inputs;
  weight.dtype = dtype;
  weight.mode = mode;
  return dtype_bytes(plain_dtype(weight), outputs * plain_stride(weight));
}

Bf16Rows bf16_rows_size(const View& x) {
  Bf16Rows rows;
  rows.stride = ceil_div(x.width(), 8) * 8;
  const bool in_place = x.dtype == DType::bf16 && rows.stride == x.width() && aligned16(x.data);
  rows.bytes = in_place ? 0 : static_cast<std::size_t>(ceil_div(x.rows() * rows.stride * 2, 256) * 256);
  rows.data = static_cast<const std::uint16_t*>(x.data);
  return rows;
}

Bf16Rows bf16_rows(const View& x, void* scratch, Stream stream) {
  Bf16Rows rows = bf16_rows_size(x);
  if (rows.bytes == 0) return rows;
  rows.data = static_cast<const std::uint16_t*>(scratch);
  const std::int64_t chunks = x.rows() * rows.stride / 8;
  if (chunks == 0) return rows;
  const bool vector = x.width() % 8 == 0 && aligned16(x.data);
  if (x.dtype == DType::f32)
    bf16_rows_kernel<true><<<blocks_for(chunks, block_threads), block_threads, 0, native(stream)>>>(x.data, x.width(), rows.stride, chunks,
                                                                                                    vector, static_cast<uint4*>(scratch));
  else
    bf16_rows_kernel<false><<<blocks_for(chunks, block_threads), block_threads, 0, native(stream)>>>(x.data, x.width(), rows.stride, chunks,
                                                                                                     vector, static_cast<uint4*>(scratch));
  check_launch("bf16 rows");
  return rows;
}

bool stored_as_f32(const PackedWeight& weight) { return !is_quantised(weight.dtype) && plain_dtype(weight) == DType::f32; }

void unpack_rows(const PackedWeight& weight, std::int64_t first, std::int64_t rows, float* values, Stream stream) {
  if (rows == 0 || weight.inputs == 0) return;
  if (is_quantised(weight.dtype)) {
    dispatch_format(weight.dtype, [&](auto format) {
      using F = decltype(format);
      const Planes planes = planes_of<F>(weight);
      unpack_planes_kernel<F>
          <<<blocks_for(rows * planes.units * 4, block_threads), block_threads, 0, native(stream)>>>(planes, first, rows, values);
    });
    return check_launch("unpack_weight");
  }
  const DType dtype = plain_dtype(weight);
  const std::int64_t stride = plain_stride(weight);
  convert_rows(dtype, static_cast<const char*>(weight.data) + dtype_bytes(dtype, first * stride), stride, rows, weight.inputs,
               weight.inputs, values, stream);
}

template <>
void run(const PackWeight& args, Stream stream) {
  const PackedWeight& weight = args.packed;
  if (weight.mode == ComputeMode::int8) throw Error("cuda: pack_weight: int8 products exist on the CPU only", "choose llm.compute: bf16");
  if (is_quantised(weight.dtype)) {
    require("pack_weight", weight.dtype, {&args.source});
    dispatch_format(weight.dtype, [&](auto format) {
      using F = decltype(format);
      if (weight.inputs % F::elements != 0)
        throw ShapeError(
            std::string("cuda: pack_weight: rows of ") + std::to_string(weight.inputs) + " elements of " + dtype_name(weight.dtype),
            "a row holds whole blocks of " + std::to_string(F::elements));
      const Planes planes = planes_of<F>(weight);
      const std::int64_t total = static_cast<std::int64_t>(planes.units) * planes.rows;
      if (total == 0) return;
      pack_planes_kernel<F><<<blocks_for(total, block_threads), block_threads, 0, native(stream)>>>(args.source.as<typename F::Block>(),
                                                                                                    weight.outputs, total, planes);
      check_launch("pack_weight");
    });
    return;
  }
  const DType dtype = plain_dtype(weight);
  const std::int64_t stride = plain_stride(weight);
  if (dtype == args.source.dtype && stride == weight.inputs) {
    if (weight.bytes != 0)
      EXPCTR_CUDA_CHECK(cudaMemcpyAsync(weight.data, args.source.data, weight.bytes, cudaMemcpyDeviceToDevice, native(stream)));
    return;
  }
  if (dtype == DType::bf16)
    convert_rows(args.source.dtype, args.source.data, weight.inputs, weight.outputs, weight.inputs, stride,
                 static_cast<std::uint16_t*>(weight.data), stream);
  else
    convert_rows(args.source.dtype, args.source.data, weight.inputs, weight.outputs, weight.inputs, stride,
                 static_cast<float*>(weight.data), stream);
}

}  // namespace expctr::cuda
