// What happens to a text before it is cut into pieces and tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace expctr {

/// Steps in order. Bytes that are no UTF-8 pass through all of them unchanged.
class Normalizer {
 public:
  using Step = std::function<std::string(std::string_view)>;
  void add(Step step) { steps_.push_back(std::move(step)); }
  bool empty() const { return steps_.empty(); }
  std::string apply(std::string_view text) const;

 private:
  std::vector<Step> steps_;
};

enum class UnicodeForm : std::uint8_t { nfc, nfd, nfkc, nfkd };

// Steps, by the names that tokenizer.json gives them.
Normalizer::Step unicode_form_step(UnicodeForm form);             ///< NFC, NFD, NFKC, NFKD
Normalizer::Step lowercase_step();                                ///< Lowercase
Normalizer::Step strip_accents_step();                            ///< StripAccents: combining marks (category M) out
Normalizer::Step strip_step(bool left, bool right);               ///< Strip: white space at the ends out
Normalizer::Step prepend_step(std::string prefix);                ///< Prepend, to a text that is not empty
Normalizer::Step replace_step(std::string from, std::string to);  ///< Replace with a String pattern, which is not empty
/// Replace with a Regex pattern. Throws InputError when it does not compile.
Normalizer::Step replace_pattern_step(const std::string& expression, std::string to, const std::string& file);
Normalizer::Step nmt_step();  ///< Nmt: control characters out, odd blanks to blanks

/// A table of replacements as SentencePiece compiles it (`precompiled_charsmap`): a double-array trie of character sequences and their
/// replacements. Source: sentencepiece's normalizer; Darts-clone's units.
class CharacterMap {
 public:
  /// Throws InputError, naming the file, when sizes or offsets do not fit.
  CharacterMap(std::span<const std::byte> bytes, const std::string& file);

  /// What the text at its start is replaced by and the bytes that this takes; {0, ""} when nothing is replaced. The longest sequence counts
  /// or, where asked for, the shortest.
  struct Replacement {
    std::size_t length = 0;
    std::string_view text;
  };
  Replacement at_start(std::string_view text, bool shortest) const;

  /// SentencePiece's way: at every place the longest sequence.
  std::string replace_longest(std::string_view text) const;
  /// The `Precompiled` step of tokenizer.json: a grapheme of less than six bytes is replaced as a whole by what its shortest prefix maps
  /// to, else character by character.
  std::string replace_graphemes(std::string_view text) const;

 private:
  std::vector<std::uint32_t> units_;
  std::string texts_;
};

}  // namespace expctr
