// What the language model reads: the policy's prompt and the scorer's, byte-identical up to the end of the "disliked" line, so
// that both share one prefix cache (expctr.md, section 5).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/movielens.h"
#include "data/split.h"
#include "data/tokenizer/chat_template.h"

namespace expctr {

/// A system and a user message; the model's chat template turns them into tokens.
struct Prompt {
  std::string system, user;
  std::vector<ChatMessage> messages() const { return {{"system", system}, {"user", user}}; }
  bool operator==(const Prompt&) const = default;
};

struct PromptOptions {
  std::string domain = "movie";
  int max_liked = 10, max_disliked = 10;
  bool genres = true;               ///< write the target's genres behind its title
  std::size_t longest_title = 150;  ///< characters
  int max_tokens = 512;
  int template_tokens = 16;  ///< what the chat markers add to the texts
  int remark_tokens = 64;    ///< room kept for an explanation in the scorer's prompt
};

/// The titles a prompt names; oldest first.
struct PromptContext {
  std::vector<std::string> liked, disliked;
  std::string target;
  std::string genres;  ///< "Animation, Comedy", empty when there are none
  bool operator==(const PromptContext&) const = default;
};

/// Context of a row: its history (strictly earlier rows) by label, the most recent max_liked and max_disliked of them. Neither
/// the row's own label nor any row at or after its time enters.
PromptContext prompt_context(const Dataset& data, const Histories& histories, const std::vector<std::uint8_t>& labels, std::int32_t row,
                             const PromptOptions& options);

/// Context of a pair that need not be logged: the given earlier rows of the user and a target.
PromptContext prompt_context(const Dataset& data, std::span<const std::int32_t> earlier, const std::vector<std::uint8_t>& labels,
                             std::int32_t item, const PromptOptions& options);

using TokenCounter = std::function<int(std::string_view)>;

/// Drops the oldest title of the longer list (the liked one when equal) until the longer of the two prompts, with room for the
/// markers and the remark, has at most max_tokens. The target is never cut. Errors (UsageError): it does not fit with empty lists.
PromptContext fit_context(PromptContext context, const PromptOptions& options, const TokenCounter& count_tokens);

Prompt policy_prompt(const PromptContext& context, const PromptOptions& options);

/// `remark` is the explanation; outer blanks are trimmed, and without any text left the prompt is the one without explanation.
Prompt scorer_prompt(const PromptContext& context, const PromptOptions& options, std::string_view remark = {});

/// The user message's part that both prompts share: the lines "liked" and "disliked" with their line ends.
std::string shared_prefix(const PromptContext& context);

}  // namespace expctr
