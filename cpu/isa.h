// Which instruction set the CPU kernels use. Float32 results do not depend on it, bit for bit; speed does.
#pragma once

#include <string_view>

namespace expctr::cpu {

/// v3: the x86-64-v3 baseline (AVX2, FMA). avx512: AVX-512 F, BW, VL and DQ as well.
enum class Isa { v3, avx512 };

/// The widest set that both this program and this processor have.
Isa best_isa();
/// The set in use; best_isa() until set_isa() is called.
Isa active_isa();
/// Throws ResourceError when the processor lacks it.
void set_isa(Isa isa);
/// Whether the processor also multiplies pairs of bf16 (AVX512_BF16).
bool has_avx512_bf16();

const char* isa_name(Isa isa);
/// "v3" or "avx512"; anything else is a UsageError.
Isa parse_isa(std::string_view name);

}  // namespace expctr::cpu
