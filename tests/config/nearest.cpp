#include "engine/config/nearest.h"

#include <doctest/doctest.h>

using namespace expctr;

TEST_CASE("edit distance counts insertions, deletions, substitutions and swaps") {
  CHECK(edit_distance("", "") == 0);
  CHECK(edit_distance("", "abc") == 3);
  CHECK(edit_distance("kitten", "sitting") == 3);
  CHECK(edit_distance("ab", "ba") == 1);
  CHECK(edit_distance("ca", "abc") == 3);
  CHECK(edit_distance("stgae1", "stage1") == 1);
}

TEST_CASE("the nearest name is the one probably meant") {
  const std::vector<std::string> jobs = {"sft", "stage1", "stage2", "ctr", "evaluate", "ppo.lr", "llm.compute"};
  CHECK(nearest_name("stagee1", jobs) == "stage1");
  CHECK(nearest_name("stage", jobs) == "stage1");
  CHECK(nearest_name("evalute", jobs) == "evaluate");
  CHECK(nearest_name("lr", jobs) == "ppo.lr");
  CHECK(nearest_name("ppo.compute", jobs) == "llm.compute");
  CHECK_FALSE(nearest_name("zzz", jobs));
  CHECK_FALSE(nearest_name("something_else_entirely", jobs));
  CHECK_FALSE(nearest_name(std::string(100000, 'a'), jobs));
  CHECK_FALSE(nearest_name("x", {}));
  CHECK(did_you_mean("cts", jobs) == "did you mean 'ctr'?");
  CHECK(did_you_mean("zzzzzz", {"a", "b"}) == "known: a, b");
}
