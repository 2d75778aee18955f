// Element types of tensors, block-quantised formats of GGUF included.
#pragma once

#include <cstddef>
#include <cstdint>

namespace expctr {

/// f32, f64: computed with. bf16, f16: storage. i32, i64, u8: ids and masks. The q types are read-only blocks (base/blocks.h).
enum class DType : std::uint8_t { f32, f64, bf16, f16, i32, i64, u8, q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k };

struct DTypeTraits {
  const char* name;
  int block_elements;  ///< elements of one block; 1 for plain types
  int block_bytes;     ///< bytes of one block
};

constexpr DTypeTraits dtype_traits(DType dtype) {
  switch (dtype) {
    case DType::f32: return {"f32", 1, 4};
    case DType::f64: return {"f64", 1, 8};
    case DType::bf16: return {"bf16", 1, 2};
    case DType::f16: return {"f16", 1, 2};
    case DType::i32: return {"i32", 1, 4};
    case DType::i64: return {"i64", 1, 8};
    case DType::u8: return {"u8", 1, 1};
    case DType::q4_0: return {"q4_0", 32, 18};
    case DType::q4_1: return {"q4_1", 32, 20};
    case DType::q5_0: return {"q5_0", 32, 22};
    case DType::q5_1: return {"q5_1", 32, 24};
    case DType::q8_0: return {"q8_0", 32, 34};
    case DType::q4_k: return {"q4_k", 256, 144};
    case DType::q5_k: return {"q5_k", 256, 176};
    case DType::q6_k: return {"q6_k", 256, 210};
  }
  return {"?", 1, 0};
}

constexpr const char* dtype_name(DType dtype) { return dtype_traits(dtype).name; }
constexpr bool is_quantised(DType dtype) { return dtype_traits(dtype).block_elements > 1; }
constexpr bool is_floating(DType dtype) { return dtype == DType::f32 || dtype == DType::f64; }

/// Bytes of `elements` consecutive elements; for block formats `elements` must be a multiple of the block.
constexpr std::size_t dtype_bytes(DType dtype, std::int64_t elements) {
  const DTypeTraits traits = dtype_traits(dtype);
  return static_cast<std::size_t>(elements / traits.block_elements) * static_cast<std::size_t>(traits.block_bytes);
}

template <class T> struct DTypeOf;
template <> struct DTypeOf<float> { static constexpr DType value = DType::f32; };
template <> struct DTypeOf<double> { static constexpr DType value = DType::f64; };
template <> struct DTypeOf<std::int32_t> { static constexpr DType value = DType::i32; };
template <> struct DTypeOf<std::int64_t> { static constexpr DType value = DType::i64; };
template <> struct DTypeOf<std::uint8_t> { static constexpr DType value = DType::u8; };

}  // namespace expctr
