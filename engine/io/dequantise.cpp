#include "engine/io/dequantise.h"

#include <fmt/format.h>

#include <cstring>

#include "base/blocks.h"
#include "base/error.h"

namespace expctr {
namespace {

template <class Block, int elements>
void blocks(const std::byte* source, float* out, std::int64_t n) {
  for (std::int64_t first = 0; first < n; first += elements, source += sizeof(Block)) {
    Block block;
    std::memcpy(&block, source, sizeof block);
    for (int i = 0; i < elements; ++i) out[first + i] = dequantise(block, i);
  }
}

template <class Stored, class Convert>
void plain(const std::byte* source, float* out, std::int64_t n, Convert convert) {
  for (std::int64_t i = 0; i < n; ++i) {
    Stored value;
    std::memcpy(&value, source + i * static_cast<std::int64_t>(sizeof value), sizeof value);
    out[i] = convert(value);
  }
}

}  // namespace

void dequantise_row(DType dtype, const std::byte* source, float* out, std::int64_t n) {
  const DTypeTraits traits = dtype_traits(dtype);
  if (n % traits.block_elements != 0)
    throw ShapeError(
        fmt::format("dequantise_row: {} elements are no multiple of the block of {}, {}", n, traits.name, traits.block_elements),
        "block formats need rows that are whole blocks");
  switch (dtype) {
    case DType::f32:
      return plain<float>(source, out, n, [](float v) { return v; });
    case DType::f64:
      return plain<double>(source, out, n, [](double v) { return static_cast<float>(v); });
    case DType::f16:
      return plain<std::uint16_t>(source, out, n, [](std::uint16_t v) { return float_of_f16(v); });
    case DType::bf16:
      return plain<std::uint16_t>(source, out, n, [](std::uint16_t v) { return float_of_bf16(v); });
    case DType::q4_0:
      return blocks<BlockQ4_0, 32>(source, out, n);
    case DType::q4_1:
      return blocks<BlockQ4_1, 32>(source, out, n);
    case DType::q5_0:
      return blocks<BlockQ5_0, 32>(source, out, n);
    case DType::q5_1:
      return blocks<BlockQ5_1, 32>(source, out, n);
    case DType::q8_0:
      return blocks<BlockQ8_0, 32>(source, out, n);
    case DType::q4_k:
      return blocks<BlockQ4_K, 256>(source, out, n);
    case DType::q5_k:
      return blocks<BlockQ5_K, 256>(source, out, n);
    case DType::q6_k:
      return blocks<BlockQ6_K, 256>(source, out, n);
    case DType::i32:
    case DType::i64:
    case DType::u8:
      break;
  }
  throw ShapeError(fmt::format("dequantise_row: {} holds integers", traits.name), "read integer tensors as what they are");
}

}  // namespace expctr
