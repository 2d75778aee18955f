#include "inference/metrics/text_quality.h"

#include <doctest/doctest.h>

#include "base/error.h"

using namespace expctr;

TEST_CASE("distinct-n and USR of small and empty sets") {
  const std::vector<std::string> texts = {"a b a", "a b", ""};
  CHECK(distinct_n(texts, 1) == doctest::Approx(2.0 / 5));
  CHECK(distinct_n(texts, 2) == doctest::Approx(2.0 / 3));
  CHECK(distinct_n(texts, 4) == 0);
  CHECK(unique_text_ratio(texts) == 1);
  CHECK(mean_words(texts) == doctest::Approx(5.0 / 3));
  const std::vector<std::string> none;
  CHECK(distinct_n(none, 1) == 0);
  CHECK(unique_text_ratio(none) == 0);
  CHECK(mean_words(none) == 0);
  CHECK_THROWS_AS(distinct_n(texts, 0), Error);
  // "ab c" and "a bc" are different bigrams.
  CHECK(distinct_n(std::vector<std::string>{"ab c", "a bc"}, 2) == 1);
}

TEST_CASE("quoted titles are looked for in their own prompt") {
  CHECK(quoted_passages("He loves \"Toy Story\" and \xE2\x80\x9C"
                        "Fargo\xE2\x80\x9D, not \"this") == std::vector<std::string>{"Toy Story", "Fargo"});
  const std::vector<std::string> texts = {"Like \"toy story,\" it is fun, unlike \"Heat\".", "No quotes.", "\"Fargo\""};
  const std::vector<std::string> prompts = {"The customer liked: Toy Story (1995)", "\"Heat\"", "liked: Fargo (1996)"};
  const QuotedTitles count = count_quoted_titles(texts, prompts);
  CHECK(count.quoted == 3);
  CHECK(count.not_in_prompt == 1);
  CHECK(count.share() == doctest::Approx(1.0 / 3));
  CHECK(QuotedTitles{}.share() == 0);
  CHECK_THROWS_AS(count_quoted_titles(texts, {}), Error);
}
