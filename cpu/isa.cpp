#include "cpu/isa.h"

#include <atomic>
#include <string>

#include "base/error.h"

namespace expctr::cpu {
namespace {

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq");
}

std::atomic<Isa>& current() {
  static std::atomic<Isa> isa{best_isa()};
  return isa;
}

}  // namespace

Isa best_isa() { return has_avx512() ? Isa::avx512 : Isa::v3; }
Isa active_isa() { return current().load(std::memory_order_relaxed); }

void set_isa(Isa isa) {
  if (isa == Isa::avx512 && !has_avx512()) throw ResourceError("instruction set avx512: this processor does not have it", "use --isa v3");
  current().store(isa, std::memory_order_relaxed);
}

bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

const char* isa_name(Isa isa) { return isa == Isa::avx512 ? "avx512" : "v3"; }

Isa parse_isa(std::string_view name) {
  if (name == "v3") return Isa::v3;
  if (name == "avx512") return Isa::avx512;
  throw UsageError("unknown instruction set '" + std::string(name) + "'", "use v3 or avx512");
}

}  // namespace expctr::cpu
