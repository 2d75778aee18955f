// Unigram language-model tokens: T5, XLM-RoBERTa, ALBERT, multilingual MiniLM.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/tokenizer/byte_tokens.h"
#include "data/tokenizer/metaspace.h"
#include "data/tokenizer/normalizer.h"
#include "data/tokenizer/tokenizer.h"

namespace expctr {

/// The way to cut a text into tokens with the largest sum of scores (log-probabilities), found by Viterbi's algorithm; a character that no
/// token covers counts as unknown, with the lowest score minus 10. Neighbouring unknown characters are one token; with byte tokens they
/// become their bytes.   Source: Kudo 2018; sentencepiece's model type unigram.
class Unigram : public Tokenizer {
 public:
  struct Options {
    Metaspace metaspace;
    bool collapse_blanks = false;  ///< GGUF's remove_extra_whitespaces: words get one blank before them, the text none at its ends
  };

  /// One score a token. Throws InputError when there is no unknown token or a score is no number.
  Unigram(TokenizerParts parts, std::vector<double> scores, Normalizer normalizer, Options options, const std::string& file);

 protected:
  void encode_fragment(std::string_view text, bool at_start, std::vector<std::int32_t>& ids) const override;
  std::string plain_bytes(std::int32_t id) const override;
  bool strips_first_blank() const override { return options_.metaspace.prefix != BlankPrefix::never; }

 private:
  void insert(std::string_view text, std::int32_t id);
  void encode_piece(std::string_view piece, std::vector<std::int32_t>& ids) const;

  std::vector<double> scores_;
  double unknown_score_ = 0.0;
  Normalizer normalizer_;
  Options options_;
  ByteTokens bytes_;
  std::unordered_map<std::uint64_t, std::int32_t> children_;  ///< trie: (node, byte) to node; node 0 is the root
  std::vector<std::int32_t> token_at_;                        ///< of each node; -1 for none
};

}  // namespace expctr
