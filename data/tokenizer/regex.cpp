#include "data/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>

#include "base/error.h"
#include "engine/io/quoted.h"
#include "engine/io/utf8.h"

namespace expctr {
namespace {

constexpr std::uint32_t most_steps = 10'000'000;

template <auto release>
struct Release {
  template <class T>
  void operator()(T* handle) const {
    release(handle);
  }
};

}  // namespace

struct Regex::Match::Handle {
  std::unique_ptr<pcre2_match_data, Release<pcre2_match_data_free>> data{pcre2_match_data_create(1, nullptr)};
};

Regex::Match::Match() : handle_(std::make_unique<Handle>()) {}
Regex::Match::~Match() = default;
std::size_t Regex::Match::begin() const { return pcre2_get_ovector_pointer(handle_->data.get())[0]; }
std::size_t Regex::Match::end() const { return pcre2_get_ovector_pointer(handle_->data.get())[1]; }

struct Regex::Code {
  std::unique_ptr<pcre2_code, Release<pcre2_code_free>> code;
  std::unique_ptr<pcre2_match_context, Release<pcre2_match_context_free>> context;
  bool has_jit = false;
  std::string file;
};

Regex::Regex(const std::string& expression, bool on_bytes, const std::string& file) : code_(std::make_unique<Code>()) {
  int error = 0;
  std::size_t place = 0;
  code_->file = file;
  code_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                                  (on_bytes ? 0 : PCRE2_UTF | PCRE2_UCP) | PCRE2_NEVER_BACKSLASH_C, &error, &place, nullptr));
  if (!code_->code) {
    char text[200];
    pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(text), sizeof text);
    throw InputError(fmt::format("{}: the pattern {} does not compile: {} at character {}", file, quoted_text(expression), text, place),
                     "the tokeniser uses a syntax that PCRE2 does not know; use the model's GGUF file");
  }
  code_->context.reset(pcre2_match_context_create(nullptr));
  pcre2_set_match_limit(code_->context.get(), most_steps);
  code_->has_jit = pcre2_jit_compile(code_->code.get(), PCRE2_JIT_COMPLETE) == 0;
}
Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

bool Regex::find(std::string_view text, std::size_t at, Match& match) const {
  const auto* const subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  pcre2_match_data* const data = match.handle_->data.get();
  while (at < text.size()) {
    int result = PCRE2_ERROR_JIT_STACKLIMIT;
    if (code_->has_jit)
      result = pcre2_jit_match(code_->code.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK, data, code_->context.get());
    if (result == PCRE2_ERROR_JIT_STACKLIMIT)
      result = pcre2_match(code_->code.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, code_->context.get());
    if (result == PCRE2_ERROR_NOMATCH) return false;
    if (result < 0)
      throw InputError(
          fmt::format("{}: a pattern of the tokeniser gave up (PCRE2 error {}) on {}", code_->file, result, quoted_text(text.substr(at))),
          "the pattern in the file is too costly; use the model's GGUF file");
    if (match.end() > match.begin()) return true;
    const std::size_t place = match.begin();
    if (place >= text.size()) return false;
    at = place + std::max<std::size_t>(1, utf8_length(text.substr(place)));
  }
  return false;
}

}  // namespace expctr
