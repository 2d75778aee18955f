// Cutting text into the pieces that byte-pair merging never crosses.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace expctr {

/// A regular expression in PCRE2's syntax. `on_bytes`: matched against bytes instead of characters; for steps that the reference
/// tokenisers run after spelling bytes as characters, where a cut may fall inside a character (Falcon cuts U+00BD before its second byte).
struct SplitPattern {
  std::string text;
  bool on_bytes = false;
};

/// A list of regular expressions. Each cuts every piece of the one before into its matches and what lies between them; no text is lost.
/// Bytes that are no UTF-8 become pieces of their own. Thread-safe.
class PreTokenizer {
 public:
  /// The patterns that tokenizer.ggml.pre names. Throws InputError that lists the known names for another one.
  static PreTokenizer named(std::string_view name, const std::string& file);

  /// Throws InputError when a pattern does not compile.
  PreTokenizer(const std::vector<SplitPattern>& patterns, const std::string& file);
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;

  /// Appends the pieces of `text`, in order. Throws InputError when a pattern from a file needs more than ten million steps for a match.
  void split(std::string_view text, std::vector<std::string_view>& pieces) const;

 private:
  class Pattern;
  std::vector<Pattern> patterns_;
};

/// Patterns that tokenizer.json has no regular expression for.
extern const char* const gpt2_pattern;
extern const char* const digit_pattern;            ///< one numeric character
extern const char* const digit_run_pattern;        ///< a run of them
extern const char* const digit_byte_pattern;       ///< one byte whose spelling is a numeric character, with on_bytes
extern const char* const digit_byte_run_pattern;   ///< a run of them
extern const char* const punctuation_pattern;      ///< one punctuation character
extern const char* const punctuation_run_pattern;  ///< a run of them

/// True when models that name this pre-tokeniser take a piece that is a token as that token, whatever the merges say.
bool ignores_merges(std::string_view pre_tokenizer_name);

}  // namespace expctr
