#include "data/tokenizer/unigram.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "engine/io/utf8.h"

namespace expctr {

Unigram::Unigram(TokenizerParts parts, std::vector<double> scores, Normalizer normalizer, Options options, const std::string& file)
    : Tokenizer(std::move(parts)),
      scores_(std::move(scores)),
      normalizer_(std::move(normalizer)),
      options_(options),
      bytes_(tokens()),
      token_at_(1, -1) {
  constexpr const char* hint = "the file is damaged or was converted wrongly; fetch or convert the model again";
  if (!unknown()) throw InputError(file + ": a unigram vocabulary without unknown token", hint);
  double lowest = std::numeric_limits<double>::infinity();
  for (std::int32_t id = 0; id < tokens().size(); ++id) {
    const TokenKind kind = tokens().kind(id);
    const double score = scores_[static_cast<std::size_t>(id)];
    if (!std::isfinite(score)) throw InputError(fmt::format("{}: the score of token {} is no number", file, id), hint);
    if (kind != TokenKind::normal && kind != TokenKind::unused) continue;
    lowest = std::min(lowest, score);
    if (!tokens().text(id).empty() && tokens().find(tokens().text(id)) == id) insert(tokens().text(id), id);
  }
  unknown_score_ = (std::isfinite(lowest) ? lowest : 0.0) - 10.0;
}

void Unigram::insert(std::string_view text, std::int32_t id) {
  std::int32_t node = 0;
  for (const char c : text) {
    const std::uint64_t key = static_cast<std::uint64_t>(node) << 8 | static_cast<unsigned char>(c);
    const auto [place, is_new] = children_.try_emplace(key, static_cast<std::int32_t>(token_at_.size()));
    if (is_new) token_at_.push_back(-1);
    node = place->second;
  }
  token_at_[static_cast<std::size_t>(node)] = id;
}

void Unigram::encode_fragment(std::string_view text, bool at_start, std::vector<std::int32_t>& ids) const {
  std::string changed;
  if (!normalizer_.empty()) text = changed = normalizer_.apply(text);
  if (options_.collapse_blanks) {
    std::string joined;
    bool inside = false;
    for (const char c : text) {
      if (c != ' ' && !inside) joined += "\u2581";
      inside = c != ' ';
      if (inside) joined += c;
    }
    if (!joined.empty()) encode_piece(joined, ids);
    return;
  }
  for (const std::string& piece : options_.metaspace.spell(text, at_start)) encode_piece(piece, ids);
}

void Unigram::encode_piece(std::string_view piece, std::vector<std::int32_t>& ids) const {
  // The best way to each byte of the piece: the token that ends there, where it starts, and the sum of scores.
  struct Best {
    std::int32_t token = -1;
    std::size_t start = 0;
    double score = -std::numeric_limits<double>::infinity();
  };
  std::vector<Best> best(piece.size() + 1);
  best[0].score = 0.0;
  const auto offer = [&](std::size_t start, std::size_t end, std::int32_t token, double score) {
    const double sum = best[start].score + score;
    if (sum > best[end].score) best[end] = {token, start, sum};
  };
  for (std::size_t start = 0; start < piece.size();) {
    const std::size_t character = std::max<std::size_t>(1, utf8_length(piece.substr(start)));
    bool covered = false;
    std::int32_t node = 0;
    for (std::size_t end = start; end < piece.size();) {
      const auto child = children_.find(static_cast<std::uint64_t>(node) << 8 | static_cast<unsigned char>(piece[end]));
      if (child == children_.end()) break;
      node = child->second;
      ++end;
      const std::int32_t token = token_at_[static_cast<std::size_t>(node)];
      if (token < 0) continue;
      offer(start, end, token, scores_[static_cast<std::size_t>(token)]);
      covered = covered || end == start + character;
    }
    if (!covered) offer(start, start + character, -1, unknown_score_);
    start += character;
  }
  std::vector<std::pair<std::size_t, std::int32_t>> path;  // start and token, last first
  for (std::size_t end = piece.size(); end > 0; end = best[end].start) path.emplace_back(best[end].start, best[end].token);
  std::reverse(path.begin(), path.end());
  for (std::size_t i = 0; i < path.size();) {
    if (path[i].second >= 0) {
      ids.push_back(path[i++].second);
      continue;
    }
    const std::size_t start = path[i].first;
    while (i < path.size() && path[i].second < 0) ++i;
    const std::size_t end = i < path.size() ? path[i].first : piece.size();
    if (!bytes_.append(piece.substr(start, end - start), ids)) append_unknown(piece.substr(start, end - start), ids);
  }
}

std::string Unigram::plain_bytes(std::int32_t id) const {
  const std::string& text = tokens().text(id);
  if (tokens().kind(id) == TokenKind::byte)
    if (const int byte = spelled_byte(text); byte >= 0) return std::string(1, static_cast<char>(byte));
  return unspell_blanks(text);
}

}  // namespace expctr
