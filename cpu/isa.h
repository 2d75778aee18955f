// Which instruction set the CPU kernels use. Results in float32 and int8 do not depend on it, bit for bit; speed does. Products in bf16 do
// in the last bits: the instruction of AVX512_BF16 adds pairs of products with its own rounding.
#pragma once

#include <string_view>

namespace expctr::cpu {

/// Each one includes those before it. v3: the x86-64-v3 baseline (AVX2, FMA). avx512: AVX-512 F, BW, VL and DQ. avx512vnni: products of
/// bytes (AVX512_VNNI). avx512bf16: products of pairs of bf16 (AVX512_BF16).
enum class Isa { v3, avx512, avx512vnni, avx512bf16 };
constexpr Isa all_isas[] = {Isa::v3, Isa::avx512, Isa::avx512vnni, Isa::avx512bf16};

/// The widest set that both this program and this processor have.
Isa best_isa();
/// The set in use; best_isa() until set_isa() is called.
Isa active_isa();
/// Throws ResourceError when the processor lacks it.
void set_isa(Isa isa);
const char* isa_name(Isa isa);
/// "v3", "avx512", "avx512vnni" or "avx512bf16"; anything else is a UsageError.
Isa parse_isa(std::string_view name);

}  // namespace expctr::cpu
