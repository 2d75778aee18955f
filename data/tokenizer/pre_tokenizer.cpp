#include "data/tokenizer/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "engine/io/quoted.h"
#include "engine/io/utf8.h"

namespace expctr {

// White space is written as the Unicode property: \s of PCRE2 also takes U+180E, which the reference tokenisers do not.
const char* const gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+)";
const char* const digit_pattern = R"(\p{N})";
const char* const digit_run_pattern = R"(\p{N}+)";
const char* const digit_byte_pattern = R"([0-9\xB2\xB3\xB9\xBC-\xBE])";
const char* const digit_byte_run_pattern = R"([0-9\xB2\xB3\xB9\xBC-\xBE]+)";
const char* const punctuation_pattern = R"([\p{P}$+<=>^~|`])";
const char* const punctuation_run_pattern = R"([\p{P}$+<=>^~|`]+)";

namespace {

constexpr const char* llama3_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\p{White_Space}\p{L}\p{N}]+[\r\n]*|)"
    R"(\p{White_Space}*[\r\n]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+)";
constexpr const char* qwen2_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\p{White_Space}\p{L}\p{N}]+[\r\n]*|)"
    R"(\p{White_Space}*[\r\n]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+)";
constexpr const char* three_digits_pattern = "[0-9]{3}";

struct NamedPatterns {
  std::vector<const char*> names;
  std::vector<SplitPattern> patterns;
  bool ignores_merges = false;
};

const std::vector<NamedPatterns>& table() {
  static const std::vector<NamedPatterns> rows = {
      {{"gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais"}, {{gpt2_pattern}}},
      {{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"}, {{digit_pattern}, {gpt2_pattern}}},
      {{"falcon"}, {{punctuation_run_pattern}, {gpt2_pattern}, {digit_byte_run_pattern, true}, {three_digits_pattern, true}}},
      {{"llama-bpe", "llama3", "llama-v3", "smaug-bpe"}, {{llama3_pattern}}, true},
      {{"qwen2", "stablelm2", "deepseek-r1-qwen"}, {{qwen2_pattern}}},
  };
  return rows;
}

const NamedPatterns* find(std::string_view name) {
  for (const NamedPatterns& row : table())
    for (const char* known : row.names)
      if (name == known) return &row;
  return nullptr;
}

constexpr std::uint32_t most_steps = 10'000'000;

template <auto release>
struct Release {
  template <class T>
  void operator()(T* handle) const {
    release(handle);
  }
};
using Code = std::unique_ptr<pcre2_code, Release<pcre2_code_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Release<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Release<pcre2_match_context_free>>;

}  // namespace

class PreTokenizer::Pattern {
 public:
  Pattern(const SplitPattern& pattern, const std::string& file) : file_(file) {
    int error = 0;
    std::size_t place = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.text.data()), pattern.text.size(),
                              (pattern.on_bytes ? 0 : PCRE2_UTF | PCRE2_UCP) | PCRE2_NEVER_BACKSLASH_C, &error, &place, nullptr));
    if (!code_) {
      char text[200];
      pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(text), sizeof text);
      throw InputError(fmt::format("{}: the pattern {} does not compile: {} at character {}", file, quoted_text(pattern.text), text, place),
                       "the tokeniser uses a syntax that PCRE2 does not know; use the model's GGUF file");
    }
    context_.reset(pcre2_match_context_create(nullptr));
    pcre2_set_match_limit(context_.get(), most_steps);
    has_jit_ = pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE) == 0;
  }

  /// Appends matches and gaps of one piece; well-formed UTF-8 unless the pattern is on_bytes.
  void cut(std::string_view text, pcre2_match_data* data, std::vector<std::string_view>& pieces) const {
    std::size_t done = 0, at = 0;
    while (at < text.size()) {
      if (!match(text, at, data)) break;
      const std::size_t* ends = pcre2_get_ovector_pointer(data);
      if (ends[1] <= ends[0]) {  // an empty match cuts nothing
        at = ends[0] + (ends[0] < text.size() ? std::max<std::size_t>(1, utf8_length(text.substr(ends[0]))) : 1);
        continue;
      }
      if (ends[0] > done) pieces.push_back(text.substr(done, ends[0] - done));
      pieces.push_back(text.substr(ends[0], ends[1] - ends[0]));
      done = at = ends[1];
    }
    if (done < text.size()) pieces.push_back(text.substr(done));
  }

 private:
  bool match(std::string_view text, std::size_t at, pcre2_match_data* data) const {
    const auto* const subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int result = PCRE2_ERROR_JIT_STACKLIMIT;
    if (has_jit_) result = pcre2_jit_match(code_.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK, data, context_.get());
    if (result == PCRE2_ERROR_JIT_STACKLIMIT)
      result = pcre2_match(code_.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, context_.get());
    if (result >= 0) return true;
    if (result == PCRE2_ERROR_NOMATCH) return false;
    throw InputError(
        fmt::format("{}: a pattern of the tokeniser gave up (PCRE2 error {}) on {}", file_, result, quoted_text(text.substr(at))),
        "the pattern in the file is too costly; use the model's GGUF file");
  }

  Code code_;
  MatchContext context_;
  bool has_jit_ = false;
  std::string file_;
};

PreTokenizer::PreTokenizer(const std::vector<SplitPattern>& patterns, const std::string& file) {
  for (const SplitPattern& pattern : patterns) patterns_.emplace_back(pattern, file);
}
PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;

PreTokenizer PreTokenizer::named(std::string_view name, const std::string& file) {
  if (const NamedPatterns* row = find(name)) return PreTokenizer(row->patterns, file);
  std::string known;
  for (const NamedPatterns& row : table())
    for (const char* each : row.names) known += (known.empty() ? "" : ", ") + std::string(each);
  throw InputError(fmt::format("{}: unknown pre-tokeniser {} (tokenizer.ggml.pre)", file, quoted_text(name)), "known are " + known);
}

bool ignores_merges(std::string_view pre_tokenizer_name) {
  const NamedPatterns* row = find(pre_tokenizer_name);
  return row != nullptr && row->ignores_merges;
}

void PreTokenizer::split(std::string_view text, std::vector<std::string_view>& pieces) const {
  std::vector<std::string_view> now, before;
  const auto cut_well_formed = [&](std::string_view part) {
    if (part.empty()) return;
    now.assign(1, part);
    for (const Pattern& pattern : patterns_) {
      const MatchData data(pcre2_match_data_create(1, nullptr));
      before.swap(now);
      now.clear();
      for (const std::string_view piece : before) pattern.cut(piece, data.get(), now);
    }
    pieces.insert(pieces.end(), now.begin(), now.end());
  };
  std::size_t start = 0;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_length(text.substr(i));
    if (length > 0) {
      i += length;
      continue;
    }
    cut_well_formed(text.substr(start, i - start));
    pieces.push_back(text.substr(i, 1));
    start = ++i;
  }
  cut_well_formed(text.substr(start));
}

}  // namespace expctr
