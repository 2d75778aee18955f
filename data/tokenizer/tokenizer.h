// Text to token ids and back.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/special_tokens.h"
#include "data/tokenizer/vocabulary.h"

namespace expctr {

class GgufFile;

/// What every tokeniser has besides its algorithm; filled by the loaders.
struct TokenizerParts {
  Vocabulary vocabulary;
  std::optional<std::int32_t> bos, eos, unknown, padding;
  bool add_bos = false, add_eos = false;
  std::vector<StripRule> strip_rules;
  std::optional<std::string> chat_template;  ///< Jinja text from the model file; never executed (data/tokenizer/chat_template.h)
  std::vector<std::string> notes;            ///< what in the file was not followed, for the log
};

/// A tokeniser. Immutable; all functions may be called from several threads.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Ids of `text`, without the tokens that mark begin and end. `parse_special`: text that spells a control token becomes that token;
  /// otherwise it stays text (use false for everything that users wrote). Any bytes are accepted.
  std::vector<std::int32_t> encode(std::string_view text, bool parse_special) const;

  /// encode, then with_ends.
  std::vector<std::int32_t> encode_document(std::string_view text, bool parse_special) const;

  /// The ids with the begin token before and the end token behind them, as far as the tokeniser's file asks for these (BERT: [CLS], [SEP]).
  std::vector<std::int32_t> with_ends(std::vector<std::int32_t> ids) const;

  /// Text of ids; decode(encode(text)) = text for byte-level BPE and SentencePiece. Control tokens are left out unless `keep_special`.
  /// The blank that SentencePiece puts before a text is removed again. Throws Error for an id outside the vocabulary.
  std::string decode(std::span<const std::int32_t> ids, bool keep_special = false) const;

  /// The bytes one token adds to a text, maybe part of a character; for text that continues another, concatenate these.
  /// The text of a control token is its name. Throws Error for an id outside the vocabulary.
  std::string token_bytes(std::int32_t id) const;

  std::int32_t vocabulary() const { return parts_.vocabulary.size(); }
  std::optional<std::int32_t> bos() const { return parts_.bos; }
  std::optional<std::int32_t> eos() const { return parts_.eos; }
  std::optional<std::int32_t> unknown() const { return parts_.unknown; }
  std::optional<std::int32_t> padding() const { return parts_.padding; }
  bool add_bos() const { return parts_.add_bos; }
  bool add_eos() const { return parts_.add_eos; }

  /// Id of a token by its spelling in the vocabulary ("<|im_end|>"; a byte-level vocabulary spells a blank "\u0120").
  std::optional<std::int32_t> find_token(std::string_view spelling) const { return parts_.vocabulary.find(spelling); }
  bool is_control(std::int32_t id) const;

  /// `text` cut at special tokens; the plain fragments are what encode would encode.
  std::vector<Fragment> split_special(std::string_view text, bool parse_special) const { return special_.split(text, parse_special); }

  const std::optional<std::string>& chat_template() const { return parts_.chat_template; }
  const std::vector<std::string>& notes() const { return parts_.notes; }

 protected:
  explicit Tokenizer(TokenizerParts parts);
  const Vocabulary& tokens() const { return parts_.vocabulary; }
  /// Appends the ids of text without special tokens; the text is not empty. `at_start`: nothing stands before it.
  virtual void encode_fragment(std::string_view text, bool at_start, std::vector<std::int32_t>& ids) const = 0;
  /// Bytes of a token that is not a control token.
  virtual std::string plain_bytes(std::int32_t id) const = 0;
  /// True when a decoded text loses one blank at its start.
  virtual bool strips_first_blank() const { return false; }
  /// Appends the unknown token; Error when there is none.
  void append_unknown(std::string_view text, std::vector<std::int32_t>& ids) const;

 private:
  TokenizerParts parts_;
  SpecialTokens special_;
};

/// The tokeniser of a model: a .gguf file, a Hugging Face folder, or a tokenizer.json. Throws InputError naming file and fault.
std::shared_ptr<const Tokenizer> load_tokenizer(const std::filesystem::path& model);

/// From the metadata tokenizer.ggml.*: model gpt2 (byte-level BPE), llama (SentencePiece BPE), t5 (unigram) or bert (WordPiece).
std::shared_ptr<const Tokenizer> tokenizer_from_gguf(const GgufFile& file);

/// From a tokenizer.json of types BPE (byte-level, or with byte fallback), Unigram and WordPiece; tokenizer_config.json beside it, where there is
/// one, gives the roles of the special tokens and the chat template. Truncation and padding are not followed, which notes() says.
std::shared_ptr<const Tokenizer> tokenizer_from_json(const std::filesystem::path& tokenizer_json);

}  // namespace expctr
