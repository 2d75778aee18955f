// A tokeniser out of a Hugging Face tokenizer.json and, where there is one, the tokenizer_config.json beside it.
#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>

#include "base/error.h"
#include "data/tokenizer/byte_level_bpe.h"
#include "data/tokenizer/sentence_piece.h"
#include "data/tokenizer/tokenizer.h"
#include "data/tokenizer/unigram.h"
#include "data/tokenizer/word_piece.h"
#include "engine/io/checked_json.h"
#include "engine/io/mapped_file.h"
#include "engine/io/quoted.h"

namespace expctr {
namespace {

using nlohmann::json;

constexpr int deepest_json = 16;
constexpr std::int64_t largest_vocabulary = 1 << 24;
constexpr const char* damaged = "the file is damaged or of another kind; fetch the model again";

/// Member of an object, null when it is missing or the value is no object.
const json& member(const json& value, const char* name) {
  static const json null;
  if (!value.is_object()) return null;
  const auto found = value.find(name);
  return found == value.end() ? null : *found;
}

std::string text_of(const json& value) { return value.is_string() ? value.get<std::string>() : std::string(); }
bool flag(const json& value, bool otherwise) { return value.is_boolean() ? value.get<bool>() : otherwise; }

/// A node and, when it is a Sequence, its parts: normalizers, pretokenizers, decoders or processors.
std::vector<json> steps(const json& node, const char* parts_name) {
  if (node.is_null()) return {};
  if (text_of(member(node, "type")) != "Sequence") return {node};
  std::vector<json> result;
  for (const json& part : member(node, parts_name))
    for (json& step : steps(part, parts_name)) result.push_back(std::move(step));
  return result;
}

/// The bytes of base64 text; empty when it is none.
std::string decoded_base64(const std::string& text) {
  if (text.empty() || text.size() % 4 != 0 || text.size() > (1u << 26)) return {};
  std::string bytes(text.size() / 4 * 3, '\0');
  const int size = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()), reinterpret_cast<const unsigned char*>(text.data()),
                                   static_cast<int>(text.size()));
  if (size < 0) return {};
  bytes.resize(static_cast<std::size_t>(size) - (text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0));
  return bytes;
}

class JsonLoader {
 public:
  explicit JsonLoader(const std::filesystem::path& path) : file_(path.string()), document_(read(path)) {
    const auto config = path.parent_path() / "tokenizer_config.json";
    if (std::filesystem::exists(config)) config_ = read(config);
  }

  std::shared_ptr<const Tokenizer> load() {
    const json& model = member(document_, "model");
    const json& vocabulary = member(model, "vocab");
    if (!model.is_object() || !(vocabulary.is_object() || vocabulary.is_array())) refuse("no tokenizer.json: model.vocab is missing");
    std::string type = text_of(member(model, "type"));
    if (type.empty()) type = vocabulary.is_array() ? "Unigram" : member(model, "merges").is_array() ? "BPE" : "WordPiece";
    if (vocabulary.is_array() != (type == "Unigram")) refuse("model.vocab has the form of another type than " + quoted_text(type));
    read_vocabulary(member(model, "vocab"));
    read_roles(model);
    for (const char* ignored : {"truncation", "padding"})
      if (!member(document_, ignored).is_null()) parts_.notes.push_back(fmt::format("{}: '{}' is not followed", file_, ignored));
    if (type == "WordPiece") return word_piece(model);
    if (type == "Unigram") return unigram(model);
    if (type != "BPE") refuse(fmt::format("tokeniser model {} is not supported (BPE, Unigram and WordPiece are)", quoted_text(type)));
    for (const char* option : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (!text_of(member(model, option)).empty()) refuse(fmt::format("BPE with {} is not supported", option));
    return is_byte_level() ? byte_level(model) : sentence_piece(model);
  }

 private:
  [[noreturn]] void refuse(const std::string& fault) const { throw InputError(file_ + ": " + fault, damaged); }
  [[noreturn]] void refuse_step(const char* kind, const json& step) const {
    throw InputError(fmt::format("{}: {} {} is not supported", file_, kind, quoted_text(step.dump())),
                     "use the model's GGUF file, whose tokeniser is described in another way");
  }

  static json read(const std::filesystem::path& path) {
    const MappedFile file(path);
    return parse_checked_json({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}, path.string(), deepest_json);
  }

  void read_vocabulary(const json& vocabulary) {
    std::vector<std::pair<std::int64_t, std::string>> tokens;
    const auto add = [&](const std::string& text, const json& id) {
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= static_cast<std::uint64_t>(largest_vocabulary))
        refuse(fmt::format("token {} has no usable id", quoted_text(text)));
      tokens.emplace_back(id.get<std::int64_t>(), text);
    };
    if (vocabulary.is_array()) {
      for (const json& entry : vocabulary) {
        if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number())
          refuse(fmt::format("entry {} of model.vocab is no pair of a text and a score", scores_.size()));
        tokens.emplace_back(static_cast<std::int64_t>(scores_.size()), entry[0].get<std::string>());
        scores_.push_back(entry[1].get<double>());
      }
    } else {
      for (const auto& [text, id] : vocabulary.items()) add(text, id);
    }
    const json& added = member(document_, "added_tokens");
    for (const json& token : added) {
      if (!member(token, "content").is_string() || text_of(member(token, "content")).empty()) refuse("an added token without content");
      add(text_of(member(token, "content")), member(token, "id"));
    }
    std::sort(tokens.begin(), tokens.end());
    tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
    if (tokens.empty()) refuse("an empty vocabulary");
    for (std::size_t i = 1; i < tokens.size(); ++i)
      if (tokens[i].first == tokens[i - 1].first)
        refuse(fmt::format("tokens {} and {} have the same id", quoted_text(tokens[i - 1].second), quoted_text(tokens[i].second)));
    // Ids may have gaps; a file with few tokens cannot ask for a huge table.
    if (tokens.back().first >= 2 * static_cast<std::int64_t>(tokens.size()) + 1024)
      refuse(fmt::format("{} tokens with ids up to {}", tokens.size(), tokens.back().first));
    std::vector<std::string> texts(static_cast<std::size_t>(tokens.back().first + 1));
    std::vector<TokenKind> kinds(texts.size(), TokenKind::unused);
    for (auto& [id, text] : tokens) {
      texts[static_cast<std::size_t>(id)] = std::move(text);
      kinds[static_cast<std::size_t>(id)] = TokenKind::normal;
    }
    parts_.vocabulary = Vocabulary(std::move(texts), std::move(kinds));
    for (const json& token : added) read_added_token(token);
  }

  void read_added_token(const json& token) {
    const auto id = static_cast<std::int32_t>(member(token, "id").get<std::int64_t>());
    parts_.vocabulary.set_kind(id, flag(member(token, "special"), false) ? TokenKind::control : TokenKind::user_defined);
    if (flag(member(token, "single_word"), false))
      parts_.notes.push_back(fmt::format("{}: 'single_word' of {} is not followed", file_, quoted_text(parts_.vocabulary.text(id))));
    const StripRule rule{id, flag(member(token, "lstrip"), false), flag(member(token, "rstrip"), false)};
    if (rule.left || rule.right) parts_.strip_rules.push_back(rule);
  }

  /// Roles of special tokens: tokenizer_config.json names them; otherwise what the model and the post-processor say.
  void read_roles(const json& model) {
    const auto named = [&](const char* role) -> std::optional<std::int32_t> {
      const json& value = member(config_, role);
      const std::string text = value.is_object() ? text_of(member(value, "content")) : text_of(value);
      return text.empty() ? std::nullopt : parts_.vocabulary.find(text);
    };
    parts_.bos = named("bos_token");
    parts_.eos = named("eos_token");
    parts_.padding = named("pad_token");
    parts_.unknown = parts_.vocabulary.find(text_of(member(model, "unk_token")));
    if (const json& id = member(model, "unk_id"); id.is_number_unsigned() && id.get<std::uint64_t>() < scores_.size())
      parts_.unknown = static_cast<std::int32_t>(id.get<std::uint64_t>());
    if (!parts_.unknown) parts_.unknown = named("unk_token");
    if (!parts_.bos) parts_.bos = named("cls_token");
    if (!parts_.eos) parts_.eos = named("sep_token");
    if (const json& padding = member(member(document_, "padding"), "pad_token"); padding.is_string() && !parts_.padding)
      parts_.padding = parts_.vocabulary.find(text_of(padding));
    if (const json& text = member(config_, "chat_template"); text.is_string()) parts_.chat_template = text.get<std::string>();

    for (const json& step : steps(member(document_, "post_processor"), "processors")) {
      const std::string type = text_of(member(step, "type"));
      if (type == "TemplateProcessing") {
        bool after = false;
        for (const json& item : member(step, "single")) {
          if (const json& special = member(item, "SpecialToken"); special.is_object())
            end_token(text_of(member(special, "id")), after);
          else
            after = true;
        }
      } else if (type == "BertProcessing" || type == "RobertaProcessing") {
        for (const char* role : {"cls", "sep"})
          if (const json& pair = member(step, role); pair.is_array() && !pair.empty()) end_token(text_of(pair[0]), role[0] == 's');
      } else if (type != "ByteLevel") {
        refuse_step("post_processor", step);
      }
    }
  }

  void end_token(const std::string& text, bool after) {
    const auto id = parts_.vocabulary.find(text);
    if (!id) refuse(fmt::format("the post-processor adds {}, which is no token", quoted_text(text)));
    (after ? parts_.eos : parts_.bos) = id;
    (after ? parts_.add_eos : parts_.add_bos) = true;
  }

  bool is_byte_level() const {
    for (const json& step : steps(member(document_, "pre_tokenizer"), "pretokenizers"))
      if (text_of(member(step, "type")) == "ByteLevel") return true;
    for (const json& step : steps(member(document_, "decoder"), "decoders"))
      if (text_of(member(step, "type")) == "ByteLevel") return true;
    return false;
  }

  std::vector<std::pair<std::string, std::string>> merges(const json& model) const {
    std::vector<std::pair<std::string, std::string>> result;
    for (const json& merge : member(model, "merges")) {
      if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        result.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
        continue;
      }
      const std::string text = text_of(merge);
      const std::size_t blank = text.find(' ', 1);
      if (text.empty() || blank == text.npos || blank + 1 == text.size())
        refuse(fmt::format("merge {} is {}, not two parts", result.size(), quoted_text(merge.dump())));
      result.emplace_back(text.substr(0, blank), text.substr(blank + 1));
    }
    return result;
  }

  /// The regular expression of a pre-tokeniser step; empty for one that cuts nothing. Steps after ByteLevel see bytes spelled as
  /// characters.
  SplitPattern pattern_of(const json& step, bool after_byte_level, ByteLevelBpe::Options& options) const {
    const std::string type = text_of(member(step, "type")), behavior = text_of(member(step, "behavior"));
    if (type == "Digits") {
      const bool single = flag(member(step, "individual_digits"), false);
      if (after_byte_level) return {single ? digit_byte_pattern : digit_byte_run_pattern, true};
      return {single ? digit_pattern : digit_run_pattern};
    }
    const json& pattern = member(member(step, "pattern"), "Regex");
    const bool cuts_out = behavior == "Isolated" || (behavior == "Removed" && flag(member(step, "invert"), false));
    if (type == "Split" && pattern.is_string() && cuts_out) {
      const std::string text = pattern.get<std::string>();
      const bool plain = std::all_of(text.begin(), text.end(), [](char c) { return c > 0 && c != '\\' && c != '^' && c != '.'; });
      if (!after_byte_level || plain) return {text, after_byte_level};
    }
    if (after_byte_level) refuse_step("pre_tokenizer after ByteLevel", step);
    if (type == "ByteLevel") {
      options.add_prefix_space = options.add_prefix_space || flag(member(step, "add_prefix_space"), true);
      return {flag(member(step, "use_regex"), true) ? gpt2_pattern : ""};
    }
    if (type == "Punctuation" && behavior == "Contiguous") return {punctuation_run_pattern};
    if (type == "Punctuation" && (behavior == "Isolated" || behavior.empty())) return {punctuation_pattern};
    refuse_step("pre_tokenizer", step);
  }

  std::shared_ptr<const Tokenizer> byte_level(const json& model) {
    ByteLevelBpe::Options options;
    options.ignore_merges = flag(member(model, "ignore_merges"), false);
    std::vector<SplitPattern> patterns;
    bool after_byte_level = false;
    for (const json& step : steps(member(document_, "pre_tokenizer"), "pretokenizers")) {
      if (SplitPattern pattern = pattern_of(step, after_byte_level, options); !pattern.text.empty()) patterns.push_back(std::move(pattern));
      after_byte_level = after_byte_level || text_of(member(step, "type")) == "ByteLevel";
    }
    return std::make_shared<ByteLevelBpe>(std::move(parts_), PreTokenizer(patterns, file_), merges(model), options, file_, normalizer());
  }

  Normalizer::Step normalizer_step(const json& step) const {
    const std::string type = text_of(member(step, "type"));
    if (type == "NFC") return unicode_form_step(UnicodeForm::nfc);
    if (type == "NFD") return unicode_form_step(UnicodeForm::nfd);
    if (type == "NFKC") return unicode_form_step(UnicodeForm::nfkc);
    if (type == "NFKD") return unicode_form_step(UnicodeForm::nfkd);
    if (type == "Lowercase") return lowercase_step();
    if (type == "StripAccents") return strip_accents_step();
    if (type == "Strip") return strip_step(flag(member(step, "strip_left"), true), flag(member(step, "strip_right"), true));
    if (type == "Prepend") return prepend_step(text_of(member(step, "prepend")));
    if (type == "Nmt") return nmt_step();
    if (type == "Replace") {
      const json& pattern = member(step, "pattern");
      const std::string text = text_of(member(pattern, "String")), expression = text_of(member(pattern, "Regex"));
      if (!text.empty()) return replace_step(text, text_of(member(step, "content")));
      if (!expression.empty()) return replace_pattern_step(expression, text_of(member(step, "content")), file_);
    }
    if (type == "Precompiled") {
      const std::string bytes = decoded_base64(text_of(member(step, "precompiled_charsmap")));
      if (bytes.empty()) refuse("precompiled_charsmap is not base64");
      const auto map = std::make_shared<CharacterMap>(std::as_bytes(std::span(bytes)), file_);
      return [map](std::string_view text) { return map->replace_graphemes(text); };
    }
    refuse_step("normalizer", step);
  }

  Normalizer normalizer() const {
    Normalizer result;
    for (const json& step : steps(member(document_, "normalizer"), "normalizers")) result.add(normalizer_step(step));
    return result;
  }

  /// A pre-tokeniser of the SentencePiece family: Metaspace, maybe behind WhitespaceSplit; without one the text stays whole.
  Metaspace metaspace() const {
    Metaspace result{.prefix = BlankPrefix::never};
    bool found = false;
    for (const json& step : steps(member(document_, "pre_tokenizer"), "pretokenizers")) {
      const std::string type = text_of(member(step, "type"));
      if (type == "WhitespaceSplit" && !found) {
        result.split_blanks = true;
        continue;
      }
      const std::string replacement = text_of(member(step, "replacement")), scheme = text_of(member(step, "prepend_scheme"));
      if (type != "Metaspace" || found || (!replacement.empty() && replacement != "\u2581")) refuse_step("pre_tokenizer", step);
      found = true;
      result.split = flag(member(step, "split"), true);
      result.prefix = scheme == "never"                                                 ? BlankPrefix::never
                      : scheme == "first"                                               ? BlankPrefix::first
                      : scheme.empty() && !flag(member(step, "add_prefix_space"), true) ? BlankPrefix::never
                                                                                        : BlankPrefix::always;
    }
    if (result.split_blanks && !found) refuse("WhitespaceSplit without Metaspace is not supported");
    return result;
  }

  /// The normaliser's steps, less those that spell blanks as U+2581: these become `spelling`, with Metaspace's rules where there is one.
  Normalizer without_spelling(Metaspace& spelling, bool& spells_blanks) const {
    Normalizer result;
    bool spelled = false;
    for (const json& step : steps(member(document_, "normalizer"), "normalizers")) {
      const std::string type = text_of(member(step, "type"));
      if (type == "Prepend" && text_of(member(step, "prepend")) == "\u2581") {
        spelling.prefix = BlankPrefix::always;
        spelling.prefix_again = true;
        spelled = true;
      } else if (type == "Replace" && text_of(member(member(step, "pattern"), "String")) == " " &&
                 text_of(member(step, "content")) == "\u2581") {
        spells_blanks = true;
        spelled = true;
      } else {
        if (spelled) refuse_step("normalizer after the spelling of blanks", step);
        result.add(normalizer_step(step));
      }
    }
    return result;
  }

  void mark_byte_tokens(const json& model) {
    if (!flag(member(model, "byte_fallback"), false)) return;
    for (int byte = 0; byte < 256; ++byte)
      if (const auto id = parts_.vocabulary.find(fmt::format("<0x{:02X}>", byte))) parts_.vocabulary.set_kind(*id, TokenKind::byte);
  }

  std::shared_ptr<const Tokenizer> sentence_piece(const json& model) {
    SentencePiece::Options options;
    options.metaspace = metaspace();
    options.fuse_unknown = flag(member(model, "fuse_unk"), false);
    bool spells_blanks = !member(document_, "pre_tokenizer").is_null();
    Normalizer normalizer = without_spelling(options.metaspace, spells_blanks);
    if (!spells_blanks) refuse("BPE that is neither byte-level nor replaces blanks by U+2581 is not supported");
    mark_byte_tokens(model);
    return std::make_shared<SentencePiece>(std::move(parts_), merges(model), options, file_, std::move(normalizer));
  }

  std::shared_ptr<const Tokenizer> unigram(const json& model) {
    Unigram::Options options;
    options.metaspace = metaspace();
    bool spells_blanks = !member(document_, "pre_tokenizer").is_null();
    Normalizer normalizer = without_spelling(options.metaspace, spells_blanks);
    if (!spells_blanks) refuse("a unigram tokeniser that does not spell blanks as U+2581 is not supported");
    mark_byte_tokens(model);
    // Added tokens behind the vocabulary have no score; none is needed, as they are found before.
    scores_.resize(static_cast<std::size_t>(parts_.vocabulary.size()), 0.0);
    return std::make_shared<Unigram>(std::move(parts_), std::move(scores_), std::move(normalizer), options, file_);
  }

  std::shared_ptr<const Tokenizer> word_piece(const json& model) {
    WordPiece::Options options{false, false, false, false, 100};
    for (const json& step : steps(member(document_, "normalizer"), "normalizers")) {
      if (text_of(member(step, "type")) != "BertNormalizer") refuse_step("normalizer", step);
      options.clean_text = flag(member(step, "clean_text"), true);
      options.cjk_alone = flag(member(step, "handle_chinese_chars"), true);
      options.lower_case = flag(member(step, "lowercase"), true);
      options.strip_accents = flag(member(step, "strip_accents"), options.lower_case);
    }
    if (text_of(member(member(document_, "pre_tokenizer"), "type")) != "BertPreTokenizer")
      refuse_step("pre_tokenizer", member(document_, "pre_tokenizer"));
    if (const json& longest = member(model, "max_input_chars_per_word"); longest.is_number_unsigned())
      options.longest_word = std::min<std::size_t>(longest.get<std::size_t>(), 10'000);
    std::string inside = text_of(member(model, "continuing_subword_prefix"));
    if (inside.empty()) inside = "##";
    return std::make_shared<WordPiece>(std::move(parts_), "", inside, options, file_);
  }

  std::string file_;
  json document_, config_;
  TokenizerParts parts_;
  std::vector<double> scores_;  ///< of a unigram model
};

}  // namespace

std::shared_ptr<const Tokenizer> tokenizer_from_json(const std::filesystem::path& tokenizer_json) {
  return JsonLoader(tokenizer_json).load();
}

}  // namespace expctr
