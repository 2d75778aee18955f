// Frozen weights with random content for the kernel tests: the file's bytes, the values they stand for, and the packed weight.
#pragma once

#include <cstdlib>
#include <memory>
#include <string>

#include "base/blocks.h"
#include "base/kernels/linear.h"
#include "support.h"

namespace expctr::test {

struct AlignedDeleter {
  void operator()(std::byte* memory) const { std::free(memory); }
};

struct Frozen {
  std::vector<std::byte> file;
  Array<float> values;
  std::unique_ptr<std::byte, AlignedDeleter> memory;
  PackedWeight packed;

  Frozen(DType dtype, std::int64_t outputs, std::int64_t inputs, std::uint32_t seed, ComputeMode mode = ComputeMode::f32)
      : values({outputs, inputs}), seed_(seed) {
    file.resize(outputs * dtype_bytes(dtype, inputs));
    switch (dtype) {
      case DType::q4_0:
        fill_blocks<BlockQ4_0, 32>(0x2400);
        break;
      case DType::q4_1:
        fill_blocks<BlockQ4_1, 32>(0x2400);
        break;
      case DType::q5_0:
        fill_blocks<BlockQ5_0, 32>(0x2000);
        break;
      case DType::q5_1:
        fill_blocks<BlockQ5_1, 32>(0x2000);
        break;
      case DType::q8_0:
        fill_blocks<BlockQ8_0, 32>(0x1800);
        break;
      case DType::q4_k:
        fill_blocks<BlockQ4_K, 256>(0x1000);
        break;
      case DType::q5_k:
        fill_blocks<BlockQ5_K, 256>(0x0C00);
        break;
      case DType::q6_k:
        fill_blocks<BlockQ6_K, 256>(0x0800);
        break;
      default:
        fill_plain(dtype);
    }
    packed.outputs = outputs;
    packed.inputs = inputs;
    packed.dtype = dtype;
    packed.mode = mode;
    packed.bytes = cpu::packed_weight_bytes(outputs, inputs, dtype, mode);
    memory.reset(static_cast<std::byte*>(std::aligned_alloc(64, (packed.bytes + 63) / 64 * 64)));
    packed.data = memory.get();
    View source;
    source.data = file.data();
    source.dtype = dtype;
    source.rank = 2;
    source.shape[0] = outputs;
    source.shape[1] = inputs;
    cpu::run(PackWeight{source, packed}, Stream{});
  }

 private:
  std::uint32_t bits(std::int64_t i) const { return philox({seed_, 9}, {static_cast<std::uint32_t>(i), 1, 0, 0}).word[0]; }

  /// Random codes, scales of either sign near `scale` (f16 bits), minima near the middle of the codes.
  template <class Block, int LENGTH>
  void fill_blocks(std::uint16_t scale) {
    for (std::size_t i = 0; i < file.size(); ++i) file[i] = static_cast<std::byte>(bits(static_cast<std::int64_t>(i)) >> 11);
    auto* blocks = reinterpret_cast<Block*>(file.data());
    for (std::int64_t b = 0; b < values.size() / LENGTH; ++b) {
      const std::uint32_t random = bits(1000000 + b);
      blocks[b].d = static_cast<std::uint16_t>(scale + random % 0x400);
      if (random >> 31) blocks[b].d |= 0x8000;
      if constexpr (requires { blocks[b].m; }) blocks[b].m = static_cast<std::uint16_t>(0xA800 + (random >> 10) % 0x400);
      if constexpr (requires { blocks[b].minimum; }) blocks[b].minimum = static_cast<std::uint16_t>(scale + 0x400 + (random >> 10) % 0x400);
      for (int i = 0; i < LENGTH; ++i) values[b * LENGTH + i] = dequantise(blocks[b], i);
    }
  }

  void fill_plain(DType dtype) {
    Array<float> numbers(values);
    numbers.random(seed_, 0.5);
    for (std::int64_t i = 0; i < values.size(); ++i) {
      if (dtype == DType::f64) {
        reinterpret_cast<double*>(file.data())[i] = numbers[i] + 1e-9;
        values[i] = static_cast<float>(numbers[i] + 1e-9);
      } else if (dtype == DType::bf16) {
        const std::uint16_t half = bf16_of_float(numbers[i]);
        reinterpret_cast<std::uint16_t*>(file.data())[i] = half;
        values[i] = float_of_bf16(half);
      } else if (dtype == DType::f16) {
        const auto half = static_cast<std::uint16_t>(0x2400 + bits(i) % 0x1800 + (bits(i) >> 31 << 15));
        reinterpret_cast<std::uint16_t*>(file.data())[i] = half;
        values[i] = float_of_f16(half);
      } else {
        reinterpret_cast<float*>(file.data())[i] = numbers[i];
        values[i] = numbers[i];
      }
    }
  }

  std::uint32_t seed_;
};

inline constexpr DType weight_types[] = {DType::f32,  DType::f64,  DType::bf16, DType::f16,  DType::q4_0, DType::q4_1,
                                         DType::q5_0, DType::q5_1, DType::q8_0, DType::q4_k, DType::q5_k, DType::q6_k};

inline Array<std::uint8_t> scratch_for(std::size_t bytes) { return Array<std::uint8_t>({static_cast<std::int64_t>(bytes)}); }

struct HeadResult {
  Array<float> log_probability, log_sum_exp, entropy, dx;
};

/// Both passes of the fused head on rows first .. first + rows - 1 of x; dx starts at Array::random(77).
HeadResult run_head(const Frozen& weight, const Array<float>& x, const Array<std::int32_t>& targets, const Array<float>& gradient,
                    std::int64_t first, std::int64_t rows, double temperature);

}  // namespace expctr::test
