#include "data/tokenizer/sentence_piece.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "engine/io/quoted.h"
#include "engine/io/utf8.h"

namespace expctr {
namespace {

std::size_t character_length(std::string_view text) { return std::max<std::size_t>(1, utf8_length(text)); }

}  // namespace

SentencePiece::SentencePiece(TokenizerParts parts, std::span<const float> scores, Options options)
    : Tokenizer(std::move(parts)), options_(options), bytes_(tokens()) {
  std::vector<std::int32_t> order;
  for (std::int32_t id = 0; id < tokens().size(); ++id)
    if (merges_to(id)) order.push_back(id);
  const auto score = [&](std::int32_t id) { return scores[static_cast<std::size_t>(id)]; };
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return score(a) > score(b); });

  for (const std::int32_t id : order) {
    const std::string_view text = tokens().text(id);
    if (character_length(text) == text.size()) continue;
    for (std::size_t i = 0; i < text.size(); i += character_length(text.substr(i))) {
      const std::string_view character = text.substr(i, character_length(text.substr(i)));
      if (symbol_of(character) >= 0) continue;
      part_symbols_.emplace(character, tokens().size() + static_cast<std::int32_t>(part_texts_.size()));
      part_texts_.emplace_back(character);
    }
  }
  std::int32_t rank = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (i > 0 && score(order[i]) != score(order[i - 1])) ++rank;
    const std::string_view text = tokens().text(order[i]);
    for (std::size_t cut = character_length(text); cut < text.size(); cut += character_length(text.substr(cut))) {
      const std::int32_t left = symbol_of(text.substr(0, cut)), right = symbol_of(text.substr(cut));
      if (left >= 0 && right >= 0) merges_.insert(left, right, {rank, order[i]});
    }
  }
}

SentencePiece::SentencePiece(TokenizerParts parts, const std::vector<std::pair<std::string, std::string>>& merges, Options options,
                             const std::string& file, Normalizer normalizer)
    : Tokenizer(std::move(parts)), options_(options), normalizer_(std::move(normalizer)), merges_(merges.size()), bytes_(tokens()) {
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    const auto left_id = tokens().find(left), right_id = tokens().find(right), id = tokens().find(left + right);
    if (!left_id || !right_id || !id)
      throw InputError(fmt::format("{}: merge {} ({} and {}) has parts or a result that are no tokens", file, rank, quoted_text(left),
                                   quoted_text(right)),
                       "vocabulary and merges do not belong together; fetch the model again");
    merges_.insert(*left_id, *right_id, {static_cast<std::int32_t>(rank), *id});
  }
}

/// Control, unknown and byte tokens never come out of a merge, though their names might be typed.
bool SentencePiece::merges_to(std::int32_t id) const {
  const TokenKind kind = tokens().kind(id);
  const std::string& text = tokens().text(id);
  return (kind == TokenKind::normal || kind == TokenKind::user_defined || kind == TokenKind::unused) && !text.empty() &&
         tokens().find(text) == id;
}

/// Symbol of a character or of a token's text; -1 when there is none.
std::int32_t SentencePiece::symbol_of(std::string_view text) const {
  const std::optional<std::int32_t> id = tokens().find(text);
  if (id && merges_to(*id)) return *id;
  const auto found = part_symbols_.find(std::string(text));
  return found == part_symbols_.end() ? -1 : found->second;
}

void SentencePiece::encode_fragment(std::string_view text, bool at_start, std::vector<std::int32_t>& ids) const {
  std::string changed;
  if (!normalizer_.empty()) text = changed = normalizer_.apply(text);
  for (const std::string& piece : options_.metaspace.spell(text, at_start)) encode_piece(piece, ids);
}

void SentencePiece::encode_piece(std::string_view spelled, std::vector<std::int32_t>& ids) const {
  // A character without symbol waits as a negative number: those never merge.
  std::vector<std::int32_t> symbols;
  constexpr std::int32_t first_unknown = -10;
  std::vector<std::string_view> unknown;
  for (std::size_t i = 0; i < spelled.size();) {
    const std::string_view character = spelled.substr(i, character_length(spelled.substr(i)));
    std::int32_t symbol = symbol_of(character);
    if (symbol < 0) {
      symbol = first_unknown - static_cast<std::int32_t>(unknown.size());
      unknown.push_back(character);
    }
    symbols.push_back(symbol);
    i += character.size();
  }
  PairMerger merger;
  merger.merge(symbols, merges_);

  bool after_unknown = false;
  for (const std::int32_t symbol : symbols) {
    if (tokens().holds(symbol)) {
      ids.push_back(symbol);
      after_unknown = false;
      continue;
    }
    const std::string_view character = symbol < 0 ? unknown[static_cast<std::size_t>(first_unknown - symbol)]
                                                  : std::string_view(part_texts_[static_cast<std::size_t>(symbol - tokens().size())]);
    const bool has_bytes = bytes_.append(character, ids);
    if (!has_bytes && !(after_unknown && options_.fuse_unknown)) append_unknown(character, ids);
    after_unknown = !has_bytes;
  }
}

std::string SentencePiece::plain_bytes(std::int32_t id) const {
  const std::string& text = tokens().text(id);
  if (tokens().kind(id) == TokenKind::byte) {
    const int byte = spelled_byte(text);
    if (byte >= 0) return std::string(1, static_cast<char>(byte));
  }
  return unspell_blanks(text);
}

}  // namespace expctr
