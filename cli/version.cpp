// --version.
#include <openssl/crypto.h>
#include <utf8proc.h>
#include <zlib.h>

#include <CLI/Version.hpp>
#include <nlohmann/json.hpp>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "cli/command_line.h"
#include "engine/core/build_info.h"

namespace expctr {

namespace {

std::string instruction_sets() {
  __builtin_cpu_init();
  std::string sets;
  const auto add = [&](const char* name, int supported) {
    if (supported) sets += fmt::format("{}{}", sets.empty() ? "" : " ", name);
  };
  add("avx2", __builtin_cpu_supports("avx2"));
  add("fma", __builtin_cpu_supports("fma"));
  add("avx512f", __builtin_cpu_supports("avx512f"));
  add("avx512bw", __builtin_cpu_supports("avx512bw"));
  add("avx512vl", __builtin_cpu_supports("avx512vl"));
  add("avx512dq", __builtin_cpu_supports("avx512dq"));
  add("avx512vnni", __builtin_cpu_supports("avx512vnni"));
  add("avx512bf16", __builtin_cpu_supports("avx512bf16"));
  return sets.empty() ? "none beyond x86-64" : sets;
}

std::string pcre2_version() {
  std::array<char, 64> text{};
  const int length = pcre2_config(PCRE2_CONFIG_VERSION, nullptr);
  if (length <= 0 || static_cast<std::size_t>(length) > text.size()) return "?";
  pcre2_config(PCRE2_CONFIG_VERSION, text.data());
  return std::string(text.data()).substr(0, std::string_view(text.data()).find(' '));
}

}  // namespace

std::string version_text() {
  return fmt::format(
      "expctr_engine {}\n"
      "compiler          {}\n"
      "backends          {}\n"
      "instruction sets  {}\n"
      "libraries         {}, fmt {}.{}.{}, nlohmann_json {}.{}.{}, CLI11 {}, zlib {}, PCRE2 {}, utf8proc {}\n",
      engine_version, compiler_name, has_cuda ? "cpu cuda" : "cpu", instruction_sets(), OpenSSL_version(OPENSSL_VERSION),
      FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100, NLOHMANN_JSON_VERSION_MAJOR, NLOHMANN_JSON_VERSION_MINOR,
      NLOHMANN_JSON_VERSION_PATCH, CLI11_VERSION, zlibVersion(), pcre2_version(), utf8proc_version());
}

}  // namespace expctr
