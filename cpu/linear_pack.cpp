// Packing of frozen weights: one pass over the file's bytes; the result has the same size (f64: half), rounded up to panels of 32 outputs.
#include "cpu/linear_pack.h"

#include <cstring>
#include <string>

#include "base/blocks.h"
#include "cpu/kernel_table.h"
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

void pack_block(const BlockQ8_0& source, int n, PackedQ8_0& out) {
  out.d[n] = source.d;
  for (int k = 0; k < 32; ++k) out.codes[k][n] = source.codes[k];
}

void pack_block(const BlockQ4_1& source, int n, PackedQ4_1& out) {
  out.d[n] = source.d;
  out.m[n] = source.m;
  for (int g = 0; g < 4; ++g) {
    std::uint32_t codes = 0;
    for (int i = 0; i < 8; ++i) {
      const int k = 8 * g + i;
      const std::uint32_t code = k < 16 ? source.codes[k] & 15u : static_cast<std::uint32_t>(source.codes[k - 16] >> 4);
      codes |= code << (4 * i);
    }
    out.codes[g][n] = codes;
  }
}

template <class Block, class Packed>
void pack_blocks(const PackWeight& args, std::int64_t panel, Packed* out) {
  const std::int64_t blocks = args.packed.inputs / 32;
  std::memset(static_cast<void*>(out), 0, static_cast<std::size_t>(blocks) * sizeof(Packed));
  for (int n = 0; n < panel_width; ++n) {
    const std::int64_t row = panel * panel_width + n;
    if (row >= args.packed.outputs) break;
    const Block* source = args.source.as<Block>() + row * blocks;
    for (std::int64_t b = 0; b < blocks; ++b) pack_block(source[b], n, out[b]);
  }
}

}  // namespace

void require_supported(const char* kernel, DType dtype, ComputeMode mode) {
  const std::string name = kernel;
  if (mode != ComputeMode::f32)
    throw UsageError(name + ": the CPU kernels multiply frozen weights in float32 only", "set llm.compute: f32");
  switch (dtype) {
    case DType::f32:
    case DType::f64:
    case DType::bf16:
    case DType::f16:
    case DType::q4_1:
    case DType::q8_0:
      return;
    default:
      throw UsageError(name + ": frozen weights of type " + dtype_name(dtype) + " are not supported",
                       "convert the model to f32, f16, bf16, q4_1 or q8_0");
  }
}

std::size_t packed_weight_bytes(std::int64_t outputs, std::int64_t inputs, DType dtype, ComputeMode mode) {
  require_supported("packed_weight_bytes", dtype, mode);
  PackedWeight weight;
  weight.outputs = outputs;
  weight.inputs = inputs;
  weight.dtype = dtype;
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
      void* out = const_cast<std::byte*>(panel_data(packed, panel));
      const View& source = args.source;
      switch (packed.dtype) {
        case DType::q4_1:
          pack_blocks<BlockQ4_1>(args, panel, static_cast<PackedQ4_1*>(out));
          break;
        case DType::q8_0:
          pack_blocks<BlockQ8_0>(args, panel, static_cast<PackedQ8_0*>(out));
          break;
        case DType::f64:
          pack_plain(args, panel, static_cast<float*>(out), [&](std::int64_t i) { return static_cast<float>(source.as<double>()[i]); });
          break;
        case DType::f32:
          pack_plain(args, panel, static_cast<float*>(out), [&](std::int64_t i) { return source.as<float>()[i]; });
          break;
        default:
          pack_plain(args, panel, static_cast<std::uint16_t*>(out), [&](std::int64_t i) { return source.as<std::uint16_t>()[i]; });
      }
    }
  });
}

void unpack_columns(const PackedWeight& weight, std::int64_t n0, std::int64_t n1, std::int64_t k0, float* out) {
  const KernelTable& table = kernels();
  const std::int64_t inputs = std::min<std::int64_t>(panel_width, weight.inputs - k0);
  float block[panel_width * panel_width];
  for (std::int64_t n = n0; n < n1; n += panel_width) {
    table.unpack_panel(panel_dtype(weight.dtype), panel_data(weight, n / panel_width), k0, k0 + inputs, block);
    const std::int64_t rows = std::min<std::int64_t>(panel_width, n1 - n);
    float* unpacked = out + (n - n0) * panel_width;
    table.transpose(block, panel_width, inputs, rows, unpacked, panel_width);
    if (inputs < panel_width)
      for (std::int64_t r = 0; r < rows; ++r) std::fill_n(unpacked + r * panel_width + inputs, panel_width - inputs, 0.0f);
  }
}

}  // namespace expctr::cpu
