#include "data/tokenizer/pre_tokenizer.h"

#include <fmt/format.h>

#include <utility>

#include "base/error.h"
#include "data/tokenizer/regex.h"
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
// Cased letters of the bicameral scripts, as DeepSeek's file lists them: general categories Lu, Ll and Lt without U+01BB and the like.
constexpr const char* deepseek_cased_pattern =
    R"(\p{White_Space}?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF})"
    R"(\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481})"
    R"(\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF})"
    R"(\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D})"
    R"(\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4})"
    R"(\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107})"
    R"(\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F})"
    R"(\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D})"
    R"(\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17})"
    R"(\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2})"
    R"(\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+)";
constexpr const char* deepseek_punctuation_pattern =
    R"(\p{White_Space}?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+)";
constexpr const char* deepseek_ideograph_pattern = R"([\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+)";
constexpr const char* deepseek3_pattern =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|)"
    R"(\p{White_Space}*[\r\n]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+)";
constexpr const char* tekken_pattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\p{White_Space}\p{L}\p{N}]+[\r\n/]*|)"
    R"(\p{White_Space}*[\r\n]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+)";
constexpr const char* gpt4o_pattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|)"
    R"( ?[^\p{White_Space}\p{L}\p{N}]+[\r\n/]*|\p{White_Space}*[\r\n]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+)";
constexpr const char* bloom_pattern = R"( ?[^(\p{White_Space}|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+)";

struct NamedPatterns {
  std::vector<const char*> names;
  std::vector<SplitPattern> patterns;
  bool ignores_merges = false;
};

const std::vector<NamedPatterns>& table() {
  static const std::vector<NamedPatterns> rows = {
      {{"gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais", "gpt-neox", "roberta-bpe", "gigachat", "mellum"}, {{gpt2_pattern}}},
      {{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}, {{digit_pattern}, {gpt2_pattern}}},
      {{"falcon"}, {{punctuation_run_pattern}, {gpt2_pattern}, {digit_byte_run_pattern, true}, {three_digits_pattern, true}}},
      {{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"}, {{llama3_pattern}}, true},
      {{"smaug-bpe", "dbrx", "chatglm-bpe", "glm4"}, {{llama3_pattern}}},
      {{"qwen2", "stablelm2", "deepseek-r1-qwen", "hunyuan"}, {{qwen2_pattern}}},
      {{"deepseek-llm"},
       {{"[\\r\\n]"},
        {deepseek_cased_pattern},
        {deepseek_punctuation_pattern},
        {"\\p{White_Space}+$"},
        {deepseek_ideograph_pattern},
        {digit_run_pattern}}},
      {{"deepseek-coder"},
       {{"[\\r\\n]"}, {"\\p{White_Space}?\\p{L}+"}, {"\\p{White_Space}?\\p{P}+"}, {deepseek_ideograph_pattern}, {digit_pattern}}},
      {{"deepseek-v3", "hunyuan-dense"},
       {{"\\p{N}{1,3}"}, {R"([\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+)"}, {deepseek3_pattern}}},
      {{"tekken"}, {{tekken_pattern}}, true},
      {{"gpt-4o", "llama4"}, {{gpt4o_pattern}}},
      {{"bloom", "poro-chat", "gpt3-finnish"}, {{bloom_pattern}}},
      {{"viking"}, {{bloom_pattern}, {digit_pattern}}},
  };
  return rows;
}

const NamedPatterns* find(std::string_view name) {
  for (const NamedPatterns& row : table())
    for (const char* known : row.names)
      if (name == known) return &row;
  return nullptr;
}

}  // namespace

class PreTokenizer::Pattern {
 public:
  Pattern(const SplitPattern& pattern, const std::string& file) : regex_(pattern.text, pattern.on_bytes, file) {}

  /// Appends matches and gaps of one piece; well-formed UTF-8 unless the pattern is on_bytes.
  void cut(std::string_view text, Regex::Match& match, std::vector<std::string_view>& pieces) const {
    std::size_t done = 0;
    while (regex_.find(text, done, match)) {
      if (match.begin() > done) pieces.push_back(text.substr(done, match.begin() - done));
      pieces.push_back(text.substr(match.begin(), match.end() - match.begin()));
      done = match.end();
    }
    if (done < text.size()) pieces.push_back(text.substr(done));
  }

 private:
  Regex regex_;
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
    Regex::Match match;
    for (const Pattern& pattern : patterns_) {
      before.swap(now);
      now.clear();
      for (const std::string_view piece : before) pattern.cut(piece, match, now);
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
