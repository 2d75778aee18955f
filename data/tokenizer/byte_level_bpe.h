// Byte-level byte-pair encoding: GPT-2, SmolLM2, Falcon, Llama 3, Qwen 2.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/tokenizer/normalizer.h"
#include "data/tokenizer/pair_merge.h"
#include "data/tokenizer/pre_tokenizer.h"
#include "data/tokenizer/tokenizer.h"

namespace expctr {

/// The vocabulary spells each byte as a printable character (0x20 as U+0120); merges join neighbours inside a piece of the pre-tokeniser.
/// A byte without token (only bytes that UTF-8 never has lack one) is encoded as U+FFFD; without that, as the unknown token.
/// Source: Radford et al. 2019, GPT-2.
class ByteLevelBpe : public Tokenizer {
 public:
  struct Options {
    bool ignore_merges = false;     ///< a piece that is a token becomes it, whatever the merges say
    bool add_prefix_space = false;  ///< a text that does not start with white space gets a blank
  };

  /// merges in order of rank: left and right part as the vocabulary spells them. Throws InputError for parts that are no tokens.
  ByteLevelBpe(TokenizerParts parts, PreTokenizer pre_tokenizer, const std::vector<std::pair<std::string, std::string>>& merges,
               Options options, const std::string& file, Normalizer normalizer = {});

 protected:
  void encode_fragment(std::string_view text, bool at_start, std::vector<std::int32_t>& ids) const override;
  std::string plain_bytes(std::int32_t id) const override;
  bool strips_first_blank() const override { return options_.add_prefix_space; }

 private:
  PreTokenizer pre_tokenizer_;
  PairTable merges_;
  Options options_;
  Normalizer normalizer_;
  std::array<std::int32_t, 256> byte_ids_;
  bool has_replacement_ = false;
};

}  // namespace expctr
