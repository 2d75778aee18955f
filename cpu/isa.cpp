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

Isa best_isa() {
  if (!has_avx512()) return Isa::v3;
  if (!__builtin_cpu_supports("avx512vnni")) return Isa::avx512;
  return __builtin_cpu_supports("avx512bf16") ? Isa::avx512bf16 : Isa::avx512vnni;
}
Isa active_isa() { return current().load(std::memory_order_relaxed); }

void set_isa(Isa isa) {
  if (isa > best_isa())
    throw ResourceError(std::string("instruction set ") + isa_name(isa) + ": this processor does not have it",
                        std::string("use --isa ") + isa_name(best_isa()) + " or less");
  current().store(isa, std::memory_order_relaxed);
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512:
      return "avx512";
    case Isa::avx512vnni:
      return "avx512vnni";
    case Isa::avx512bf16:
      return "avx512bf16";
    default:
      return "v3";
  }
}

Isa parse_isa(std::string_view name) {
  for (const Isa isa : all_isas)
    if (name == isa_name(isa)) return isa;
  throw UsageError("unknown instruction set '" + std::string(name) + "'", "use v3, avx512, avx512vnni or avx512bf16");
}

}  // namespace expctr::cpu
