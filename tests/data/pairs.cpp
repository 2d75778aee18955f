#include "data/pairs.h"

#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <tuple>

#include "tests/data/support.h"

using namespace expctr;

namespace {

const std::string header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n";

std::vector<std::string> some_rows() {
  std::vector<std::string> rows;
  for (int user = 1; user <= 40; ++user)
    for (int i = 1; i <= 20; ++i)
      rows.push_back(std::to_string(user) + "\t" + std::to_string(i * 7 % 23) + "\t" + std::to_string(1 + (user + i) % 5) + "\t" +
                     std::to_string(1000 + i) + "\n");
  return rows;
}

PairData pairs_of(const std::vector<std::string>& rows) {
  const TemporaryFolder folder;
  std::string text = header;
  for (const std::string& row : rows) text += row;
  write_text(folder / "t.inter", text);
  return load_pairs(folder / "t.inter", {});
}

using Key = std::tuple<std::string, std::string, double, int, int, int>;

std::vector<Key> keys_of(const PairData& data, const std::vector<Pair>& pairs) {
  std::vector<Key> keys;
  for (const Pair& p : pairs)
    keys.emplace_back(data.dataset().interactions.users.text(p.user), data.dataset().interactions.items.text(p.item), p.time, p.label,
                      p.fold, p.policy);
  return keys;
}

}  // namespace

TEST_CASE("samples depend on ids and seed, never on the order of the file, and are nested") {
  std::vector<std::string> rows = some_rows();
  const PairData data = pairs_of(rows);
  std::shuffle(rows.begin(), rows.end(), std::mt19937(1));
  const PairData shuffled = pairs_of(rows);
  const PairFilter train{Split::train, std::nullopt};
  CHECK(keys_of(data, select_pairs(data, train)) == keys_of(shuffled, select_pairs(shuffled, train)));
  const auto sample = keys_of(data, sample_pairs(data, train, 100, 2024));
  CHECK(sample.size() == 100);
  CHECK(sample == keys_of(shuffled, sample_pairs(shuffled, train, 100, 2024)));
  const auto larger = keys_of(data, sample_pairs(data, train, 200, 2024));
  CHECK(std::equal(sample.begin(), sample.end(), larger.begin()));
  CHECK(std::set<Key>(larger.begin(), larger.end()).size() == 200);
  CHECK(sample != keys_of(data, sample_pairs(data, train, 100, 2025)));
  CHECK(sample_pairs(data, train, 1 << 20, 2024).size() == select_pairs(data, train).size());
  CHECK(sample_pairs(data, train, 0, 2024).empty());
  CHECK_THROWS_AS(sample_pairs(data, train, -1, 2024), UsageError);
}

TEST_CASE("scorer pairs and policy pairs have no user in common; nobody is explained by the policy that saw him") {
  const PairData data = pairs_of(some_rows());
  std::set<std::int32_t> users[3];
  std::size_t total = 0;
  for (int fold = scorer_fold; fold < 2; ++fold)
    for (const Pair& pair : select_pairs(data, {Split::train, fold})) {
      users[fold + 1].insert(pair.user);
      ++total;
      REQUIRE(pair.fold == fold);
      REQUIRE(pair.split == Split::train);
      if (fold != scorer_fold) REQUIRE(pair.policy != pair.fold);
    }
  CHECK(total == select_pairs(data, {Split::train, std::nullopt}).size());
  for (int a = 0; a < 3; ++a) {
    CHECK_FALSE(users[a].empty());
    for (int b = 0; b < a; ++b)
      for (const std::int32_t user : users[a]) REQUIRE(users[b].count(user) == 0);
  }
}

TEST_CASE("pairs are found again and written as JSON") {
  const PairData data = pairs_of({"7\t1\t5\t10\n", "7\t02\t2\t20\n", "7\t3\t4\t30\n"});
  CHECK(data.find(0, 1) == std::optional<std::int32_t>(1));
  CHECK_FALSE(data.find(0, 99).has_value());
  const auto json = pair_json(data, data.pair(2));
  CHECK(json["uid"] == 7);
  CHECK(json["iid"] == 3);
  CHECK(json["label"] == 1);
  CHECK(json["liked"] == nlohmann::json::array({"1"}));
  CHECK(json["disliked"] == nlohmann::json::array({"02"}));
  CHECK(json["target"] == "3");
  CHECK(json["hist_iid"] == nlohmann::json::array({1, "02"}));
  CHECK(json["hist_rate"] == nlohmann::json::array({5.0, 2.0}));
  CHECK(json["split"] == "train");
}
