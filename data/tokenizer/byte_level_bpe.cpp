#include "data/tokenizer/byte_level_bpe.h"

#include <fmt/format.h>

#include "base/error.h"
#include "engine/io/quoted.h"
#include "engine/io/utf8.h"

namespace expctr {
namespace {

/// GPT-2's spelling of bytes: printable Latin-1 stands for itself, the other 68 bytes are U+0100 upwards, in order.
std::uint32_t character_of(int byte) {
  const auto printable = [](int b) { return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE; };
  if (printable(byte)) return static_cast<std::uint32_t>(byte);
  std::uint32_t character = 0x100;
  for (int b = 0; b < byte; ++b) character += printable(b) ? 0 : 1;
  return character;
}

struct ByteSpelling {
  std::array<std::string, 256> text;
  std::array<int, 0x180> byte;  ///< -1 for characters that spell no byte
  ByteSpelling() {
    byte.fill(-1);
    for (int b = 0; b < 256; ++b) {
      append_utf8(text[static_cast<std::size_t>(b)], character_of(b));
      byte[character_of(b)] = b;
    }
  }
};

const ByteSpelling& spelling() {
  static const ByteSpelling instance;
  return instance;
}

}  // namespace

ByteLevelBpe::ByteLevelBpe(TokenizerParts parts, PreTokenizer pre_tokenizer, const std::vector<std::pair<std::string, std::string>>& merges,
                           Options options, const std::string& file, Normalizer normalizer)
    : Tokenizer(std::move(parts)),
      pre_tokenizer_(std::move(pre_tokenizer)),
      merges_(merges.size()),
      options_(options),
      normalizer_(std::move(normalizer)) {
  for (std::size_t byte = 0; byte < 256; ++byte) byte_ids_[byte] = tokens().find(spelling().text[byte]).value_or(-1);
  has_replacement_ = byte_ids_[0xEF] >= 0 && byte_ids_[0xBF] >= 0 && byte_ids_[0xBD] >= 0;
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    const auto left_id = tokens().find(left), right_id = tokens().find(right), id = tokens().find(left + right);
    if (!left_id || !right_id || !id)
      throw InputError(fmt::format("{}: merge {} ({} and {}) has parts or a result that are no tokens", file, rank, quoted_text(left),
                                   quoted_text(right)),
                       "vocabulary and merges do not belong together; fetch or convert the model again");
    merges_.insert(*left_id, *right_id, {static_cast<std::int32_t>(rank), *id});
  }
}

void ByteLevelBpe::encode_fragment(std::string_view text, bool /*at_start*/, std::vector<std::int32_t>& ids) const {
  std::string changed;
  if (!normalizer_.empty()) text = changed = normalizer_.apply(text);
  if (text.empty()) return;
  if (options_.add_prefix_space && text.front() != ' ') text = changed = " " + std::string(text);

  std::vector<std::string_view> pieces;
  pre_tokenizer_.split(text, pieces);
  PairMerger merger;
  std::vector<std::int32_t> symbols;
  std::string spelled;
  for (const std::string_view piece : pieces) {
    if (options_.ignore_merges) {
      spelled.clear();
      for (const char c : piece) spelled += spelling().text[static_cast<unsigned char>(c)];
      if (const auto id = tokens().find(spelled)) {
        ids.push_back(*id);
        continue;
      }
    }
    symbols.clear();
    for (const char c : piece) {
      const std::int32_t id = byte_ids_[static_cast<unsigned char>(c)];
      if (id >= 0)
        symbols.push_back(id);
      else if (has_replacement_)
        symbols.insert(symbols.end(), {byte_ids_[0xEF], byte_ids_[0xBF], byte_ids_[0xBD]});
      else
        append_unknown(piece, symbols);
    }
    merger.merge(symbols, merges_);
    ids.insert(ids.end(), symbols.begin(), symbols.end());
  }
}

std::string ByteLevelBpe::plain_bytes(std::int32_t id) const {
  std::string bytes;
  const std::string_view text = tokens().text(id);
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = std::max<std::size_t>(1, utf8_length(text.substr(i)));
    const std::uint32_t character = utf8_code_point(text.substr(i));
    const int byte = character < spelling().byte.size() ? spelling().byte[character] : -1;
    if (byte >= 0)
      bytes += static_cast<char>(byte);
    else
      bytes += text.substr(i, length);
    i += length;
  }
  return bytes;
}

}  // namespace expctr
