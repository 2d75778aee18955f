#include "inference/metrics/text_quality.h"

#include <fmt/format.h>

#include <unordered_set>

#include "base/error.h"

namespace expctr {
namespace {

constexpr std::string_view blanks = " \t\r\n\v\f";

std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> words;
  std::size_t begin = text.find_first_not_of(blanks);
  while (begin != std::string_view::npos) {
    const std::size_t end = std::min(text.find_first_of(blanks, begin), text.size());
    words.push_back(text.substr(begin, end - begin));
    begin = text.find_first_not_of(blanks, end);
  }
  return words;
}

std::string normalised(std::string_view passage) {
  constexpr std::string_view outer = " \t\r\n.,;:!?";
  const std::size_t first = passage.find_first_not_of(outer);
  if (first == std::string_view::npos) return {};
  passage = passage.substr(first, passage.find_last_not_of(outer) - first + 1);
  std::string lower;
  for (const char c : passage) lower += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return lower;
}

}  // namespace

double distinct_n(std::span<const std::string> texts, int n) {
  if (n < 1) throw Error(fmt::format("distinct-n: n is {}", n));
  std::unordered_set<std::string> different;
  std::int64_t all = 0;
  const auto order = static_cast<std::size_t>(n);
  for (const std::string& text : texts) {
    const auto words = words_of(text);
    for (std::size_t i = 0; i + order <= words.size(); ++i) {
      std::string gram;  // words hold no blanks, so a blank keeps n-grams apart
      for (std::size_t k = 0; k < order; ++k) gram.append(words[i + k]) += ' ';
      different.insert(std::move(gram));
      ++all;
    }
  }
  return all == 0 ? 0.0 : static_cast<double>(different.size()) / static_cast<double>(all);
}

std::int64_t unique_texts(std::span<const std::string> texts) {
  return static_cast<std::int64_t>(std::unordered_set<std::string_view>(texts.begin(), texts.end()).size());
}

double unique_text_ratio(std::span<const std::string> texts) {
  return texts.empty() ? 0.0 : static_cast<double>(unique_texts(texts)) / static_cast<double>(texts.size());
}

double mean_words(std::span<const std::string> texts) {
  std::size_t words = 0;
  for (const std::string& text : texts) words += words_of(text).size();
  return texts.empty() ? 0.0 : static_cast<double>(words) / static_cast<double>(texts.size());
}

std::vector<std::string> quoted_passages(std::string_view text) {
  constexpr std::string_view left = "\xE2\x80\x9C", right = "\xE2\x80\x9D";
  std::vector<std::string> result;
  std::size_t at = 0;
  while (at < text.size()) {
    const bool straight = text[at] == '"', curved = text.substr(at).starts_with(left);
    if (!straight && !curved) {
      ++at;
      continue;
    }
    const std::string_view mark = straight ? "\"" : left, closing = straight ? "\"" : right;
    const std::size_t begin = at + mark.size(), end = text.find(closing, begin);
    if (end == std::string_view::npos) {
      at = begin;
      continue;
    }
    result.emplace_back(text.substr(begin, end - begin));
    at = end + closing.size();
  }
  return result;
}

QuotedTitles count_quoted_titles(std::span<const std::string> texts, std::span<const std::string> prompts) {
  if (texts.size() != prompts.size()) throw Error(fmt::format("quoted titles: {} texts for {} prompts", texts.size(), prompts.size()));
  QuotedTitles count;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto passages = quoted_passages(texts[i]);
    if (passages.empty()) continue;
    const std::string prompt = normalised(prompts[i]);
    for (const std::string& passage : passages) {
      const std::string title = normalised(passage);
      if (title.empty()) continue;
      ++count.quoted;
      count.not_in_prompt += prompt.find(title) == std::string::npos;
    }
  }
  return count;
}

}  // namespace expctr
