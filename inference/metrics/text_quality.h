// What can be said of generated texts without a judge (specs/text-generators.md section 6, expctr.md section 10).
// Words are separated by blanks; an empty text is a text.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace expctr {

/// Different n-grams / all n-grams, over all texts together; 0 if there are none. Errors (Error): n < 1.
double distinct_n(std::span<const std::string> texts, int n);

/// Number of distinct texts, and their share (USN, USR); the share of no texts is 0.
std::int64_t unique_texts(std::span<const std::string> texts);
double unique_text_ratio(std::span<const std::string> texts);

/// Mean number of words; 0 for no texts.
double mean_words(std::span<const std::string> texts);

/// What stands in quotation marks: "...", or between typographic ones. A mark that is never closed opens nothing.
std::vector<std::string> quoted_passages(std::string_view text);

struct QuotedTitles {
  std::int64_t quoted = 0, not_in_prompt = 0;
  double share() const { return quoted == 0 ? 0.0 : static_cast<double>(not_in_prompt) / static_cast<double>(quoted); }
};

/// Quoted passages of texts[i] that do not occur in prompts[i], compared without case and without outer punctuation.
/// Errors (Error): lengths differ.
QuotedTitles count_quoted_titles(std::span<const std::string> texts, std::span<const std::string> prompts);

}  // namespace expctr
