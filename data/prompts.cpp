#include "data/prompts.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/error.h"

namespace expctr {
namespace {

std::string joined(const std::vector<std::string>& titles) {
  if (titles.empty()) return "nothing yet";
  std::string result;
  for (const std::string& title : titles) result += (result.empty() ? "" : "; ") + title;
  return result;
}

std::string quoted_target(const PromptContext& context) {
  return fmt::format("\"{}\"{}", context.target, context.genres.empty() ? "" : " (" + context.genres + ")");
}

std::string system_text(const PromptOptions& options) { return fmt::format("You assist an online {} shop.", options.domain); }

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view blanks = " \t\r\n\v\f";
  const std::size_t first = text.find_first_not_of(blanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

}  // namespace

PromptContext prompt_context(const Dataset& data, std::span<const std::int32_t> earlier, const std::vector<std::uint8_t>& labels,
                             std::int32_t item, const PromptOptions& options) {
  const auto title = [&](std::int32_t index) {
    const std::string text = prompt_title(data.items[static_cast<std::size_t>(index)], options.longest_title);
    return text.empty() ? data.interactions.items.text(index) : text;  // an item without metadata keeps its id
  };
  PromptContext context;
  for (std::size_t i = earlier.size(); i-- > 0;) {
    const auto row = static_cast<std::size_t>(earlier[i]);
    const bool liked = labels[row] != 0;
    std::vector<std::string>& list = liked ? context.liked : context.disliked;
    if (static_cast<int>(list.size()) < (liked ? options.max_liked : options.max_disliked))
      list.push_back(title(data.interactions.item[row]));
  }
  std::reverse(context.liked.begin(), context.liked.end());
  std::reverse(context.disliked.begin(), context.disliked.end());
  context.target = title(item);
  if (options.genres)
    for (const std::string& genre : data.items[static_cast<std::size_t>(item)].genres)
      if (genre != "unknown") context.genres += (context.genres.empty() ? "" : ", ") + genre;
  return context;
}

PromptContext prompt_context(const Dataset& data, const Histories& histories, const std::vector<std::uint8_t>& labels, std::int32_t row,
                             const PromptOptions& options) {
  const auto r = static_cast<std::size_t>(row);
  return prompt_context(data, histories.before(data.interactions.user[r], row, std::numeric_limits<std::int32_t>::max()), labels,
                        data.interactions.item[r], options);
}

PromptContext fit_context(PromptContext context, const PromptOptions& options, const TokenCounter& count_tokens) {
  const auto tokens = [&](const Prompt& prompt) {
    return count_tokens(prompt.system) + count_tokens(prompt.user) + options.template_tokens;
  };
  while (std::max(tokens(policy_prompt(context, options)), tokens(scorer_prompt(context, options)) + options.remark_tokens) >
         options.max_tokens) {
    std::vector<std::string>& longer = context.liked.size() >= context.disliked.size() ? context.liked : context.disliked;
    if (longer.empty())
      throw UsageError(fmt::format("prompt.max_tokens {} is too small for the target \"{}\" alone", options.max_tokens, context.target),
                       "raise prompt.max_tokens");
    longer.erase(longer.begin());
  }
  return context;
}

std::string shared_prefix(const PromptContext& context) {
  return fmt::format("The customer liked: {}\nThe customer disliked: {}\n", joined(context.liked), joined(context.disliked));
}

Prompt policy_prompt(const PromptContext& context, const PromptOptions& options) {
  return {system_text(options),
          shared_prefix(context) +
              fmt::format("Say in one sentence how this customer would probably feel about {} and why.", quoted_target(context))};
}

Prompt scorer_prompt(const PromptContext& context, const PromptOptions& options, std::string_view remark) {
  remark = trimmed(remark);
  return {system_text(options),
          shared_prefix(context) + fmt::format("Candidate: {}\n{}Will the customer like the candidate? Answer Yes or No.",
                                               quoted_target(context), remark.empty() ? "" : fmt::format("Remark: {}\n", remark))};
}

}  // namespace expctr
