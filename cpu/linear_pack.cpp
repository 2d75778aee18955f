// Packing of frozen weights: one pass over the file's bytes, panels of 32 outputs. Bytes for 32 weights: plain ones as in the file (f64:
// half) in float32, 64 in bf16, 36 in int8. Blocks stay as they are in float32 and bf16 (cpu/weight_kernel.h); in int8 they take the file's
// 18, 20 and 34 for q4_0, q4_1 and q8_0, 34 and 36 for q5_0 and q5_1 (a byte a code), 24, 40 and 40 for q4_k, q5_k and q6_k (float scales).
#include "cpu/linear_pack.h"

#include <cmath>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "base/blocks.h"
#include "cpu/convert.h"
#include "cpu/int8_kernel.h"
#include "cpu/kernel_table.h"
#include "cpu/quantise.h"
#include "cpu/run.h"
#include "cpu/shape_check.h"
#include "cpu/thread_pool.h"
#include "cpu/weight_kernel.h"

namespace expctr::cpu {
namespace {

template <class Element, class Convert>
void pack_plain(const PackWeight& args, std::int64_t panel, Element* out, const Convert& element) {
  for (int n = 0; n < panel_width; ++n) {
    const std::int64_t row = panel * panel_width + n;
    for (std::int64_t k = 0; k < args.packed.inputs; ++k)
      out[k * panel_width + n] = row < args.packed.outputs ? element(row * args.packed.inputs + k) : Element{};
  }
}

/// Pairs of bf16, [inputs / 2][32] words.
void pack_pairs(const PackWeight& args, std::int64_t panel, std::uint16_t* out) {
  const std::int64_t inputs = args.packed.inputs;
  std::fill_n(out, (inputs + 1) / 2 * 2 * panel_width, std::uint16_t{0});
  std::vector<float> row(static_cast<std::size_t>(inputs));
  for (int n = 0; n < panel_width && panel * panel_width + n < args.packed.outputs; ++n) {
    read_elements(args.source.data, args.source.dtype, (panel * panel_width + n) * inputs, inputs, row.data());
    for (std::int64_t k = 0; k < inputs; ++k)
      out[k / 2 * 2 * panel_width + 2 * n + k % 2] = bf16_of_float(row[static_cast<std::size_t>(k)]);
  }
}

void pack_block(const BlockQ8_0& source, int n, PackedQ8_0& out) {
  out.d[n] = source.d;
  for (int k = 0; k < 32; ++k) out.codes[k][n] = source.codes[k];
}

template <class Block, class Packed>
void pack_block(const Block& source, int n, Packed& out) {
  out.d[n] = source.d;
  if constexpr (requires { source.m; }) out.m[n] = source.m;
  if constexpr (requires { source.minimum; }) {
    out.minimum[n] = source.minimum;
    for (int g = 0; g < 8; ++g) {
      out.scales[g][n] = static_cast<std::uint8_t>(packed_scale(source.scales, g, false));
      out.minima[g][n] = static_cast<std::uint8_t>(packed_scale(source.scales, g, true));
    }
  } else if constexpr (requires { source.scales; }) {
    for (int g = 0; g < 16; ++g) out.scales[g][n] = source.scales[g];
  }
  auto* codes = reinterpret_cast<std::uint32_t(*)[panel_width]>(out.codes);
  constexpr int upper_bits = std::is_same_v<Block, BlockQ6_K> ? 2 : 1;
  for (int g = 0; g < 4 * groups_of_block<Packed>; ++g) {
    std::uint32_t low = 0, high = 0;
    for (int i = 0; i < 8; ++i) {
      const auto code = static_cast<std::uint32_t>(code_of(source, 8 * g + i));
      low |= (code & 15) << (4 * i);
      high |= (code >> 4) << (upper_bits * i);
    }
    codes[g][n] = low;
    if constexpr (requires { out.high; }) {
      using High = std::remove_all_extents_t<decltype(out.high)>;
      reinterpret_cast<High(*)[panel_width]>(out.high)[g][n] = static_cast<High>(high);
    }
  }
}

/// What with_blocks() passes on: the file's block format and the packed ones.
template <class FileBlock, class PackedBlock, class PackedInt8>
struct Formats {
  using File = FileBlock;
  using Packed = PackedBlock;
  using Int8 = PackedInt8;
};

template <class Body>
void with_blocks(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::q4_0:
      return body(Formats<BlockQ4_0, PackedQ4_0, Int8Q4_0>{});
    case DType::q4_1:
      return body(Formats<BlockQ4_1, PackedQ4_1, Int8Q4_1>{});
    case DType::q5_0:
      return body(Formats<BlockQ5_0, PackedQ5_0, Int8Q8_0>{});
    case DType::q5_1:
      return body(Formats<BlockQ5_1, PackedQ5_1, Int8Q5_1>{});
    case DType::q8_0:
      return body(Formats<BlockQ8_0, PackedQ8_0, Int8Q8_0>{});
    case DType::q4_k:
      return body(Formats<BlockQ4_K, PackedQ4_K, Int8Q4_K>{});
    case DType::q5_k:
      return body(Formats<BlockQ5_K, PackedQ5_K, Int8Q5_K>{});
    default:
      return body(Formats<BlockQ6_K, PackedQ6_K, Int8Q6_K>{});
  }
}

template <class Formats>
void pack_blocks(const PackWeight& args, std::int64_t panel, std::byte* out, Formats) {
  using Packed = typename Formats::Packed;
  const std::int64_t blocks = args.packed.inputs / (32 * groups_of_block<Packed>);
  std::memset(out, 0, static_cast<std::size_t>(blocks) * sizeof(Packed));
  for (int n = 0; n < panel_width && panel * panel_width + n < args.packed.outputs; ++n) {
    const auto* source = args.source.as<typename Formats::File>() + (panel * panel_width + n) * blocks;
    for (std::int64_t b = 0; b < blocks; ++b) pack_block(source[b], n, reinterpret_cast<Packed*>(out)[b]);
  }
}

template <class Block>
void set_code(Block& block, int n, int i, int code) {
  if constexpr (Block::nibbles)
    block.codes[i / 8][n][i % 4] = static_cast<std::uint8_t>(block.codes[i / 8][n][i % 4] | code << (i % 8 < 4 ? 0 : 4));
  else
    block.codes[i / 4][n][i % 4] = static_cast<std::uint8_t>(code);
}

/// The file's codes and scales of 32 inputs, group g of `source`.
template <class File, class Block>
void pack_int8(const File& source, int g, int n, Block& out) {
  for (int i = 0; i < 32; ++i) set_code(out, n, i, code_of(source, 32 * g + i));
  if constexpr (requires { source.minimum; }) {
    out.d[0][n] = float_of_f16(source.d) * static_cast<float>(packed_scale(source.scales, g, false));
    out.m[n] = -float_of_f16(source.minimum) * static_cast<float>(packed_scale(source.scales, g, true));
  } else if constexpr (requires { source.scales; }) {
    for (int part = 0; part < 2; ++part) out.d[part][n] = float_of_f16(source.d) * static_cast<float>(source.scales[2 * g + part]);
  } else {
    out.d[0][n] = source.d;
    if constexpr (requires { source.m; }) out.m[n] = source.m;
  }
}

template <class Formats>
void pack_int8_blocks(const PackWeight& args, std::int64_t panel, std::byte* out, Formats) {
  using Int8 = typename Formats::Int8;
  constexpr int groups = groups_of_block<typename Formats::Packed>;
  const std::int64_t blocks = args.packed.inputs / (32 * groups);
  for (int n = 0; n < panel_width && panel * panel_width + n < args.packed.outputs; ++n) {
    const auto* source = args.source.as<typename Formats::File>() + (panel * panel_width + n) * blocks;
    for (std::int64_t b = 0; b < blocks; ++b)
      for (int g = 0; g < groups; ++g) pack_int8(source[b], g, n, reinterpret_cast<Int8*>(out)[b * groups + g]);
  }
}

/// Plain weights: 32 inputs share the scale largest |w| / 127, as q8_0 does; codes round to nearest.
void pack_int8_plain(const PackWeight& args, std::int64_t panel, std::byte* out) {
  const std::int64_t inputs = args.packed.inputs;
  std::vector<float> row(static_cast<std::size_t>((inputs + 31) / 32 * 32), 0.0f);
  for (int n = 0; n < panel_width && panel * panel_width + n < args.packed.outputs; ++n) {
    read_elements(args.source.data, args.source.dtype, (panel * panel_width + n) * inputs, inputs, row.data());
    for (std::int64_t b = 0; b < static_cast<std::int64_t>(row.size()) / 32; ++b) {
      Int8Plain& block = reinterpret_cast<Int8Plain*>(out)[b];
      std::int32_t codes[32];
      block.d[0][n] = quantise_32(row.data() + 32 * b, codes);
      for (int i = 0; i < 32; ++i) set_code(block, n, i, codes[i] + plain_offset);
    }
  }
}

}  // namespace

void require_supported(const char* kernel, DType dtype, ComputeMode) {
  if (is_readable(dtype)) return;
  throw UsageError(std::string(kernel) + ": frozen weights of type " + dtype_name(dtype) + " are not supported",
                   "weights are f32, f64, f16, bf16 or one of the block-quantised types");
}

std::size_t panel_bytes(const PackedWeight& weight) {
  const auto blocks = static_cast<std::size_t>((weight.inputs + 31) / 32);
  switch (panel_storage(weight)) {
    case PanelStorage::pairs:
      return static_cast<std::size_t>((weight.inputs + 1) / 2) * panel_width * sizeof(std::uint32_t);
    case PanelStorage::int8:
      return with_int8(weight.dtype, [&]<class Block>() { return blocks * sizeof(Block); });
    case PanelStorage::blocks: {
      std::size_t bytes = 0;
      with_packed(weight.dtype, [&]<class Packed>(const Packed*) { bytes = blocks / groups_of_block<Packed> * sizeof(Packed); });
      return bytes;
    }
    default:
      return dtype_bytes(panel_dtype(weight.dtype), weight.inputs * panel_width);
  }
}

std::size_t packed_weight_bytes(std::int64_t outputs, std::int64_t inputs, DType dtype, ComputeMode mode) {
  require_supported("packed_weight_bytes", dtype, mode);
  PackedWeight weight;
  weight.outputs = outputs;
  weight.inputs = inputs;
  weight.dtype = dtype;
  weight.mode = mode;
  return static_cast<std::size_t>(panel_count(weight)) * panel_bytes(weight);
}

template <>
void run(const PackWeight& args, Stream) {
  const PackedWeight& packed = args.packed;
  require_supported("PackWeight", packed.dtype, packed.mode);
  const auto check = [&](bool holds, const char* rule) { require_arguments(holds, "PackWeight", rule, {{"source", args.source}}); };
  check(args.source.rank == 2 && args.source.shape[0] == packed.outputs && args.source.shape[1] == packed.inputs,
        "source is [outputs, inputs]");
  check(args.source.dtype == packed.dtype, "source has the packed weight's dtype");
  check(packed.inputs % dtype_traits(packed.dtype).block_elements == 0, "inputs are a multiple of the block");
  check(packed.bytes >= packed_weight_bytes(packed.outputs, packed.inputs, packed.dtype, packed.mode),
        "packed.data has packed_weight_bytes()");
  parallel_for(panel_count(packed), 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t panel = begin; panel < end; ++panel) {
      std::byte* out = const_cast<std::byte*>(panel_data(packed, panel));
      const View& source = args.source;
      switch (panel_storage(packed)) {
        case PanelStorage::int8:
          std::memset(out, 0, panel_bytes(packed));
          if (is_quantised(packed.dtype))
            with_blocks(packed.dtype, [&](auto formats) { pack_int8_blocks(args, panel, out, formats); });
          else
            pack_int8_plain(args, panel, out);
          break;
        case PanelStorage::blocks:
          with_blocks(packed.dtype, [&](auto formats) { pack_blocks(args, panel, out, formats); });
          break;
        case PanelStorage::pairs:
          pack_pairs(args, panel, reinterpret_cast<std::uint16_t*>(out));
          break;
        default:
          if (packed.dtype == DType::f64)
            pack_plain(args, panel, reinterpret_cast<float*>(out),
                       [&](std::int64_t i) { return static_cast<float>(source.as<double>()[i]); });
          else if (packed.dtype == DType::f32)
            pack_plain(args, panel, reinterpret_cast<float*>(out), [&](std::int64_t i) { return source.as<float>()[i]; });
          else
            pack_plain(args, panel, reinterpret_cast<std::uint16_t*>(out), [&](std::int64_t i) { return source.as<std::uint16_t>()[i]; });
      }
    }
  });
}

void unpack(const KernelTable& table, const PackedWeight& weight, const std::byte* panel, std::int64_t k0, std::int64_t k1, float* out) {
  switch (panel_storage(weight)) {
    case PanelStorage::pairs:
      return table.unpack_pairs(panel, k0, k1, out);
    case PanelStorage::int8:
      return table.unpack_int8(weight.dtype, panel, k0, k1, out);
    default:
      return table.unpack_panel(panel_dtype(weight.dtype), panel, k0, k1, out);
  }
}

void unpack_columns(const KernelTable& table, const PackedWeight& weight, std::int64_t n0, std::int64_t n1, std::int64_t k0, float* out) {
  const std::int64_t inputs = std::min<std::int64_t>(panel_width, weight.inputs - k0);
  float block[panel_width * panel_width];
  for (std::int64_t n = n0; n < n1; n += panel_width) {
    unpack(table, weight, panel_data(weight, n / panel_width), k0, k0 + inputs, block);
    const std::int64_t rows = std::min<std::int64_t>(panel_width, n1 - n);
    float* unpacked = out + (n - n0) * panel_width;
    table.transpose(block, panel_width, inputs, rows, unpacked, panel_width);
    if (inputs < panel_width)
      for (std::int64_t r = 0; r < rows; ++r) std::fill_n(unpacked + r * panel_width + inputs, panel_width - inputs, 0.0f);
  }
}

}  // namespace expctr::cpu
