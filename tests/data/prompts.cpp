#include "data/prompts.h"

#include <nlohmann/json.hpp>

#include "data/pairs.h"
#include "tests/data/support.h"

using namespace expctr;

namespace {

const std::string header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n";

// One user; items 1..6 with titles A..F.
PairData pairs_of(const std::string& rows, PairOptions options = {}) {
  const TemporaryFolder folder;
  write_text(folder / "t.inter", header + rows);
  write_text(folder / "t.item",
             "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n1\tAlien, The\t1979\tHorror "
             "Sci-Fi\n2\tBig\t1988\tComedy\n"
             "3\tCube\tV\tunknown\n4\tDune\t1984\t\n5\tEdge\t1997\tDrama\n6\tFargo\t1996\tCrime\n");
  return load_pairs(folder.path(), options);
}

const std::string rows = "7\t1\t5\t10\n7\t2\t2\t20\n7\t3\t4\t20\n7\t4\t1\t30\n7\t5\t5\t40\n";

int words(std::string_view text) { return static_cast<int>(std::count(text.begin(), text.end(), ' ')) + 1; }

}  // namespace

TEST_CASE("prompts to the letter") {
  const PairData data = pairs_of(rows);
  const PromptOptions options;
  const PromptContext context = data.context(data.pair(4));
  CHECK(policy_prompt(context, options) ==
        Prompt{"You assist an online movie shop.",
               "The customer liked: The Alien (1979); Cube\nThe customer disliked: Big (1988); Dune (1984)\nSay in one sentence how this "
               "customer would probably feel about \"Edge (1997)\" (Drama) and why."});
  CHECK(scorer_prompt(context, options) ==
        Prompt{"You assist an online movie shop.",
               "The customer liked: The Alien (1979); Cube\nThe customer disliked: Big (1988); Dune (1984)\nCandidate: \"Edge (1997)\" "
               "(Drama)\nWill the customer like the candidate? Answer Yes or No."});
  CHECK(scorer_prompt(context, options, " \nA fan of drama. \n").user ==
        "The customer liked: The Alien (1979); Cube\nThe customer disliked: Big (1988); Dune (1984)\nCandidate: \"Edge (1997)\" "
        "(Drama)\nRemark: A fan of drama.\nWill the customer like the candidate? Answer Yes or No.");
  CHECK(scorer_prompt(context, options, " \n\t") == scorer_prompt(context, options));
  const auto messages = policy_prompt(context, options).messages();
  REQUIRE(messages.size() == 2);
  CHECK(messages[0].role == "system");
  CHECK(messages[1].role == "user");
  CHECK(messages[1].content == policy_prompt(context, options).user);

  const PromptContext first = data.context(data.pair(0));
  CHECK(policy_prompt(first, options).user ==
        "The customer liked: nothing yet\nThe customer disliked: nothing yet\nSay in one sentence how this customer would probably feel "
        "about "
        "\"The Alien (1979)\" (Horror, Sci-Fi) and why.");
  PromptOptions plain = options;
  plain.genres = false;
  plain.domain = "book";
  plain.max_liked = 1;
  plain.max_disliked = 0;
  const PromptContext narrow = prompt_context(data.dataset(), data.histories(), data.labels(), 4, plain);
  CHECK(narrow.liked == std::vector<std::string>{"Cube"});
  CHECK(narrow.disliked.empty());
  CHECK(scorer_prompt(narrow, plain) == Prompt{"You assist an online book shop.",
                                               "The customer liked: Cube\nThe customer disliked: nothing yet\nCandidate: \"Edge "
                                               "(1997)\"\nWill the customer like the candidate? Answer Yes or No."});
  // No genres: neither an empty list nor "unknown" is written.
  CHECK(data.context(data.pair(2)).genres.empty());
  CHECK(data.context(data.pair(3)).genres.empty());
  // A pair nobody logged knows every row of the user.
  CHECK(data.context_now(0, 5).liked == std::vector<std::string>{"The Alien (1979)", "Cube", "Edge (1997)"});
}

TEST_CASE("policy and scorer share their bytes up to the end of the disliked line") {
  const PairData data = pairs_of(rows);
  for (std::int32_t row = 0; row < 5; ++row) {
    const PromptContext context = data.context(data.pair(row));
    const std::string prefix = shared_prefix(context);
    CHECK(prefix.ends_with("\n"));
    CHECK(policy_prompt(context, {}).user.starts_with(prefix));
    CHECK(scorer_prompt(context, {}).user.starts_with(prefix));
    CHECK(scorer_prompt(context, {}, "because").user.starts_with(prefix));
    CHECK(policy_prompt(context, {}).system == scorer_prompt(context, {}, "because").system);
  }
}

TEST_CASE("over the budget the oldest title of the longer list goes first, the target never") {
  PromptContext context;
  context.liked = {"L1", "L2", "L3"};
  context.disliked = {"D1", "D2"};
  context.target = "Target with many words";
  PromptOptions options;
  options.template_tokens = options.remark_tokens = 0;
  const auto size = [&](const PromptContext& c) {
    return std::max(words(policy_prompt(c, options).user), words(scorer_prompt(c, options).user)) + words(policy_prompt(c, options).system);
  };
  options.max_tokens = size(context);
  CHECK(fit_context(context, options, words) == context);
  --options.max_tokens;
  PromptContext expected = context;
  expected.liked = {"L2", "L3"};
  CHECK(fit_context(context, options, words) == expected);
  --options.max_tokens;
  expected.liked = {"L3"};  // equal lengths: the liked list gives
  CHECK(fit_context(context, options, words) == expected);
  --options.max_tokens;
  expected.disliked = {"D2"};
  CHECK(fit_context(context, options, words) == expected);
  options.max_tokens = 5;
  CHECK_THROWS_AS(fit_context(context, options, words), UsageError);
  options.max_tokens = size(context);
  options.remark_tokens = 5;  // the remark stands in the scorer's prompt only, yet shortens the lists of both
  CHECK(fit_context(context, options, words).liked.size() < 3);
}

TEST_CASE("no label in the text path: the row's own rating and later ones do not move its prompt (expctr.md 13.6)") {
  const PairData before = pairs_of(rows);
  const std::vector<std::string> lines = {"7\t1\t{}\t10\n", "7\t2\t{}\t20\n", "7\t3\t{}\t20\n", "7\t4\t{}\t30\n", "7\t5\t{}\t40\n"};
  const std::vector<int> ratings = {5, 2, 4, 1, 5};
  int moved = 0;
  for (std::size_t changed = 0; changed < lines.size(); ++changed) {
    std::string text;
    for (std::size_t i = 0; i < lines.size(); ++i) {
      const int rating = i == changed ? 6 - ratings[i] : ratings[i];
      text += std::string(lines[i]).replace(lines[i].find("{}"), 2, std::to_string(rating));
    }
    const PairData after = pairs_of(text);
    for (std::int32_t row = 0; row < 5; ++row) {
      const auto time = [&](std::size_t r) { return before.dataset().interactions.time[r]; };
      const bool same = before.context(before.pair(row)) == after.context(after.pair(row));
      if (time(changed) >= time(static_cast<std::size_t>(row))) CHECK(same);
      moved += !same;
    }
  }
  CHECK(moved > 0);  // earlier ratings do move it: the test can fail
}

TEST_CASE("on MovieLens-100K flipping every rating at or after a row's time leaves its prompts alone") {
  const auto folder = movielens_or_skip();
  if (!folder) return;
  const PairData data = load_pairs(*folder, {});
  const Interactions& table = data.dataset().interactions;
  for (const Pair& pair : sample_pairs(data, {Split::test, std::nullopt}, 50, 2024)) {
    std::vector<std::uint8_t> flipped = data.labels();
    for (std::size_t row = 0; row < flipped.size(); ++row)
      if (table.time[row] >= pair.time) flipped[row] ^= 1;
    const PromptOptions options;
    const PromptContext a = data.context(pair), b = prompt_context(data.dataset(), data.histories(), flipped, pair.row, options);
    REQUIRE(a == b);
    REQUIRE(a.liked.size() <= 10);
    REQUIRE(policy_prompt(a, options) == policy_prompt(b, options));
  }
}
