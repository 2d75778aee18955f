#include "data/split.h"

#include "data/folds.h"
#include "data/movielens.h"
#include "tests/data/support.h"

using namespace expctr;

namespace {

Interactions table_of(const std::string& rows) {
  AtomicReader reader("t.inter", pieces("user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + rows, 1000));
  return read_interactions(reader, {});
}

std::vector<std::string> items_of(const Interactions& data, std::span<const std::int32_t> rows) {
  std::vector<std::string> result;
  for (const std::int32_t row : rows) result.push_back(data.items.text(data.item[static_cast<std::size_t>(row)]));
  return result;
}

}  // namespace

TEST_CASE("rows are ordered by time, then by item number; histories end before the target's time") {
  // Items 10 and 9 share a time: 9 comes first although "10" < "9" as text.
  const Interactions data = table_of("1\t10\t5\t100\n1\t9\t5\t100\n1\t3\t5\t50\n2\t9\t5\t10\n1\t7\t5\t200\n1\t8\t5\t100\n");
  const Timelines timelines(data);
  CHECK(items_of(data, timelines.of(0)) == std::vector<std::string>{"3", "8", "9", "10", "7"});
  const Histories histories(timelines, split_per_user_time(timelines));
  CHECK(items_of(data, histories.before(0, 0, 50)) == std::vector<std::string>{"3"});  // not 9 and 8 of the same second
  CHECK(items_of(data, histories.before(0, 4, 50)) == std::vector<std::string>{"3", "8", "9", "10"});
  CHECK(items_of(data, histories.before(0, 4, 2)) == std::vector<std::string>{"9", "10"});
  CHECK(histories.before(0, 2, 50).empty());
  CHECK(histories.before(1, 3, 50).empty());
}

TEST_CASE("a history may be confined to training rows") {
  std::string rows;
  for (int i = 1; i <= 10; ++i) rows += "1\t" + std::to_string(i) + "\t5\t" + std::to_string(100 * i) + "\n";
  const Interactions data = table_of(rows);
  const Timelines timelines(data);
  const auto splits = split_per_user_time(timelines);
  CHECK(splits[6] == Split::train);
  CHECK(splits[7] == Split::valid);
  CHECK(splits[8] == Split::test);
  CHECK(Histories(timelines, splits).before(0, 9, 50).size() == 9);
  CHECK(Histories(timelines, splits, HistoryScope::train_only).before(0, 9, 50).size() == 7);
  CHECK(Histories(timelines, splits, HistoryScope::train_only).before(0, 3, 50).size() == 3);
  CHECK_THROWS_AS(parse_history_scope("all"), UsageError);
  CHECK(parse_split("valid") == Split::valid);
  CHECK_THROWS_AS(parse_split("dev"), UsageError);
  CHECK_THROWS_AS(split_per_user_time(timelines, {0.6, 0.4}), UsageError);
  CHECK_THROWS_AS(split_per_user_time(timelines, {-0.1, 0.4}), UsageError);
}

TEST_CASE("shares round down exactly") {
  for (int n = 1; n <= 300; ++n) {
    std::string rows;
    for (int i = 1; i <= n; ++i) rows += "1\t" + std::to_string(i) + "\t5\t" + std::to_string(i) + "\n";
    const Timelines timelines(table_of(rows));
    const auto splits = split_per_user_time(timelines, {0.3, 0.1});
    REQUIRE(std::count(splits.begin(), splits.end(), Split::test) == 3 * n / 10);
    REQUIRE(std::count(splits.begin(), splits.end(), Split::valid) == n / 10);
  }
}

TEST_CASE("folds by hand") {
  const FoldOptions options;
  // h mod 10 in {0, 1}: scorer share, policy (h div 10) mod 2.
  CHECK(assign_fold(40, options).fold == scorer_fold);
  CHECK(assign_fold(40, options).policy == 0);
  CHECK(assign_fold(31, options).fold == scorer_fold);
  CHECK(assign_fold(31, options).policy == 1);
  // Otherwise fold (h div 10) mod 2, explained by the other one.
  CHECK(assign_fold(52, options).fold == 1);
  CHECK(assign_fold(52, options).policy == 0);
  CHECK(assign_fold(49, options).fold == 0);
  CHECK(assign_fold(49, options).policy == 1);
  FoldOptions leaky = options;
  leaky.folds = 1;
  CHECK(assign_fold(52, leaky).fold == 0);
  CHECK(assign_fold(52, leaky).policy == 0);
  FoldOptions three = options;
  three.folds = 3;
  for (std::uint64_t h = 0; h < 1000; ++h) {
    const FoldAssignment assignment = assign_fold(h, three);
    if (assignment.fold != scorer_fold) REQUIRE(assignment.fold != assignment.policy);
    REQUIRE(assignment.policy < 3);
  }
  for (const double share : {-0.1, 1.0, 0.25}) {
    FoldOptions wrong = options;
    wrong.scorer_share = share;
    CHECK_THROWS_AS(assign_fold(1, wrong), UsageError);
  }
  FoldOptions none = options;
  none.folds = 0;
  CHECK_THROWS_AS(assign_fold(1, none), UsageError);
}

TEST_CASE("MovieLens-100K: rows, positive shares and folds of the specification") {
  const auto folder = movielens_or_skip();
  if (!folder) return;
  const Dataset data = load_movielens(*folder);
  const Interactions& table = data.interactions;
  REQUIRE(table.rows() == 100000);
  CHECK(table.warnings.empty());
  CHECK(table.users.size() == 943);
  CHECK(table.items.size() == 1682);
  const Timelines timelines(table);
  const auto splits = split_per_user_time(timelines);
  const auto labels = labels_of(table, LabelRule("rating >= 4"));
  std::int64_t rows[3] = {}, positive[3] = {}, empty[3] = {};
  const Histories histories(timelines, splits);
  for (std::int32_t row = 0; row < 100000; ++row) {
    const auto r = static_cast<std::size_t>(row);
    const auto split = static_cast<std::size_t>(splits[r]);
    ++rows[split];
    positive[split] += labels[r];
    const auto history = histories.before(table.user[r], row, 50);
    empty[split] += history.empty();
    for (const std::int32_t earlier : history) REQUIRE(table.time[static_cast<std::size_t>(earlier)] < table.time[r]);
  }
  CHECK(rows[0] == 70771);
  CHECK(rows[1] == 9596);
  CHECK(rows[2] == 19633);
  const auto share = [&](int split) {
    return std::round(1000.0 * static_cast<double>(positive[split]) / static_cast<double>(rows[split])) / 1000;
  };
  CHECK(share(0) == 0.583);
  CHECK(share(1) == 0.499);
  CHECK(share(2) == 0.476);
  CHECK(std::round(1000.0 * static_cast<double>(empty[0]) / static_cast<double>(rows[0])) == 30);  // 3.0 %
  CHECK(empty[2] == 0);

  const auto folds = folds_of_rows(table, {});
  std::int64_t users[3] = {}, training[3] = {};
  for (std::int32_t user = 0; user < timelines.users(); ++user) {
    const FoldAssignment assignment = folds[static_cast<std::size_t>(timelines.of(user)[0])];
    const auto part = static_cast<std::size_t>(assignment.fold + 1);
    ++users[part];
    for (const std::int32_t row : timelines.of(user)) {
      REQUIRE(folds[static_cast<std::size_t>(row)].fold == assignment.fold);
      training[part] += splits[static_cast<std::size_t>(row)] == Split::train;
    }
    if (assignment.fold != scorer_fold) REQUIRE(assignment.policy == 1 - assignment.fold);
  }
  CHECK(users[0] == 200);
  CHECK(training[0] == 16672);
  CHECK(users[1] == 395);
  CHECK(training[1] == 29182);
  CHECK(users[2] == 348);
  CHECK(training[2] == 24917);
}
