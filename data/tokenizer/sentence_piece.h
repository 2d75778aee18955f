// SentencePiece-type byte-pair encoding with byte fallback: Llama 2, Mistral, stories260K.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "data/tokenizer/byte_tokens.h"
#include "data/tokenizer/metaspace.h"
#include "data/tokenizer/normalizer.h"
#include "data/tokenizer/pair_merge.h"
#include "data/tokenizer/tokenizer.h"

namespace expctr {

/// Blanks become U+2581; characters are merged over the whole text, without pre-tokeniser; what is no token afterwards becomes bytes.
/// Source: Kudo and Richardson 2018; sentencepiece's model type BPE.
class SentencePiece : public Tokenizer {
 public:
  struct Options {
    Metaspace metaspace = {.prefix_again = true};
    bool fuse_unknown = false;  ///< neighbouring unknown characters give one unknown token; matters without byte tokens
  };

  /// As GGUF stores it: two neighbours merge when their texts together are a token, the one with the highest score first.
  SentencePiece(TokenizerParts parts, std::span<const float> scores, Options options);

  /// As tokenizer.json stores it: merges in order of rank. Throws InputError for parts that are no tokens.
  SentencePiece(TokenizerParts parts, const std::vector<std::pair<std::string, std::string>>& merges, Options options,
                const std::string& file, Normalizer normalizer = {});

 protected:
  void encode_fragment(std::string_view text, bool at_start, std::vector<std::int32_t>& ids) const override;
  std::string plain_bytes(std::int32_t id) const override;
  bool strips_first_blank() const override { return options_.metaspace.prefix != BlankPrefix::never; }

 private:
  void encode_piece(std::string_view piece, std::vector<std::int32_t>& ids) const;
  bool merges_to(std::int32_t id) const;
  std::int32_t symbol_of(std::string_view text) const;

  Options options_;
  Normalizer normalizer_;
  PairTable merges_;
  ByteTokens bytes_;
  /// Characters that are parts of tokens without being tokens: symbols beyond the vocabulary, which may merge but never stay.
  std::unordered_map<std::string, std::int32_t> part_symbols_;
  std::vector<std::string> part_texts_;  ///< of symbol vocabulary() + i
};

}  // namespace expctr
