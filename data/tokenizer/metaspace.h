// SentencePiece's spelling of blanks: U+2581 in their place, one before the first word.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace expctr {

enum class BlankPrefix : std::uint8_t { never, first, always };  ///< first: before a text, but not before what follows a special token

struct Metaspace {
  BlankPrefix prefix = BlankPrefix::always;
  bool prefix_again = false;  ///< a prefix even before a text that starts with a blank (the Prepend step; otherwise it has one already)
  bool split = false;         ///< pieces begin at each U+2581; otherwise the text is one piece
  bool split_blanks = false;  ///< cut at white space first, which disappears, and spell each word as a text of its own (WhitespaceSplit)

  /// The spelled text in pieces; a piece is not empty. `at_start`: the text begins the document.
  std::vector<std::string> spell(std::string_view text, bool at_start) const;
};

/// The bytes that a token's spelling stands for: U+2581 is a blank.
std::string unspell_blanks(std::string_view spelling);

}  // namespace expctr
