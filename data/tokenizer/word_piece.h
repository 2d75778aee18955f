// WordPiece with BERT's normaliser: MiniLM, BGE.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/tokenizer/tokenizer.h"

namespace expctr {

/// Text is cleaned (control characters out, white space to blanks), CJK characters stand alone, accents are stripped (NFD without
/// nonspacing marks), letters lower-cased, words cut at blanks and punctuation; each word takes the longest piece from its start, again and
/// again. A word that does not work out, or has more than 100 characters, is one unknown token.   Source: Devlin et al. 2019;
/// BertTokenizer.
class WordPiece : public Tokenizer {
 public:
  struct Options {
    bool clean_text = true, cjk_alone = true, strip_accents = true, lower_case = true;
    std::size_t longest_word = 100;  ///< characters
  };

  /// Spelling of pieces: `start` before those that begin a word, `inside` before the others; one of the two is empty ("" and "##" in
  /// Hugging Face files, U+2581 and "" in GGUF). Throws InputError when there is no unknown token.
  WordPiece(TokenizerParts parts, std::string start, std::string inside, Options options, const std::string& file);

 protected:
  void encode_fragment(std::string_view text, bool at_start, std::vector<std::int32_t>& ids) const override;
  /// A piece that begins a word carries a blank before it.
  std::string plain_bytes(std::int32_t id) const override;
  bool strips_first_blank() const override { return true; }

 private:
  std::vector<std::string> words(std::string_view text) const;
  void encode_word(const std::string& word, std::vector<std::int32_t>& ids) const;

  Options options_;
  std::string start_, inside_;
  std::size_t longest_piece_ = 0;  ///< bytes, with its mark
};

}  // namespace expctr
