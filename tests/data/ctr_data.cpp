#include <cmath>
#include <set>

#include "data/bias_model.h"
#include "data/ctr_batches.h"
#include "data/features.h"
#include "inference/metrics/ranking_quality.h"
#include "tests/data/support.h"

using namespace expctr;

namespace {

struct Prepared {
  Dataset data;
  Timelines timelines;
  std::vector<Split> splits;
  std::vector<std::uint8_t> labels;
  explicit Prepared(const std::filesystem::path& path)
      : data(load_movielens(path)),
        timelines(data.interactions),
        splits(split_per_user_time(timelines)),
        labels(labels_of(data.interactions, LabelRule())) {}

  std::vector<std::int32_t> rows(std::initializer_list<Split> wanted) const {
    std::vector<std::int32_t> result;
    for (std::size_t row = 0; row < splits.size(); ++row)
      if (std::find(wanted.begin(), wanted.end(), splits[row]) != wanted.end()) result.push_back(static_cast<std::int32_t>(row));
    return result;
  }
};

double rounded(double value) { return std::round(value * 1e4) / 1e4; }

}  // namespace

TEST_CASE("vocabulary: descending frequency, ties by number then text, 0 padding, last unknown") {
  const FieldVocabulary vocabulary = FieldVocabulary::build({{"b", 3}, {"10", 2}, {"9", 2}, {"a", 3}, {"rare", 1}, {"", 9}, {"never", 0}});
  CHECK(vocabulary.size() == 7);
  CHECK(vocabulary.id("a") == 1);
  CHECK(vocabulary.id("b") == 2);
  CHECK(vocabulary.id("9") == 3);
  CHECK(vocabulary.id("10") == 4);
  CHECK(vocabulary.id("rare") == 5);
  CHECK(vocabulary.id("never") == 6);
  CHECK(vocabulary.id("") == vocabulary.unknown());
  CHECK(vocabulary.value(3) == "9");
  CHECK(FieldVocabulary::build({{"a", 3}, {"rare", 1}}, 2).id("rare") == 2);
}

TEST_CASE("batch order: a permutation of its own per epoch and seed, the same again, cut anywhere") {
  const BatchOrder order(2024, 3, 1001);
  std::vector<std::int32_t> sorted = order.indices();
  std::sort(sorted.begin(), sorted.end());
  for (std::int32_t i = 0; i < 1001; ++i) REQUIRE(sorted[static_cast<std::size_t>(i)] == i);
  CHECK(order.indices() == BatchOrder(2024, 3, 1001).indices());
  CHECK(order.indices() != BatchOrder(2024, 4, 1001).indices());
  CHECK(order.indices() != BatchOrder(2025, 3, 1001).indices());
  CHECK(order.batches(100) == 11);
  std::vector<std::int32_t> joined;
  for (std::int64_t b = 0; b < order.batches(100); ++b) joined.insert(joined.end(), order.batch(b, 100).begin(), order.batch(b, 100).end());
  CHECK(joined == order.indices());
  CHECK(order.batch(11, 100).empty());
  CHECK(BatchOrder(1, 0, 0).batches(10) == 0);
  // No place is preferred: over 2,000 epochs each row comes first about 2000 / 8 times (standard deviation 15).
  std::vector<int> first(8, 0);
  for (std::uint32_t epoch = 0; epoch < 2000; ++epoch) ++first[static_cast<std::size_t>(BatchOrder(7, epoch, 8).indices()[0])];
  for (const int count : first) CHECK(std::abs(count - 250) < 75);
}

TEST_CASE("a batch holds ids, genres and the labelled history, most recent last") {
  const TemporaryFolder folder;
  std::string rows = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n";
  for (int i = 1; i <= 10; ++i)
    rows += "5\t" + std::to_string(i) + "\t" + std::to_string(i % 2 ? 5 : 1) + "\t" + std::to_string(10 * i) + "\n";
  write_text(folder / "t.inter", rows + "6\t1\t4\t5\n");
  write_text(folder / "t.item",
             "item_id:token\ttitle:token_seq\trelease_year:token\tclass:token_seq\n1\tA\t1990\tX Y\n2\tB\t1991\tY\n3\tC\t1990\t\n");
  write_text(folder / "t.user", "user_id:token\tage:token\tgender:token\toccupation:token\n5\t30\tM\twriter\n6\t60\tF\twriter\n");
  const Prepared all(folder.path());
  const CtrFeatures features = build_features(all.data, all.splits);
  CHECK(features.genres_width == 2);
  CHECK(features.vocabulary.item.id("1") == 1);   // twice in training
  CHECK(features.vocabulary.item.size() == 9);    // 7 training items
  CHECK(features.vocabulary.item.id("9") == 8);   // test only: unknown
  CHECK(features.vocabulary.genre.id("Y") == 1);  // 3 rows against 2
  CHECK(features.vocabulary.genre.id("X") == 2);
  CHECK(features.vocabulary.year.id("1990") == 1);
  CHECK(features.vocabulary.year.id("") == features.vocabulary.year.unknown());
  CHECK(features.vocabulary.age.id("25-34") == 1);

  const CtrDataset dataset(all.data, features, all.timelines, all.splits, all.labels, {3, HistoryScope::all_earlier});
  CHECK(dataset.rows() == 11);
  CHECK(dataset.rows_of(Split::test) == std::vector<std::int32_t>{8, 9});
  CHECK(dataset.rows_of(Split::valid) == std::vector<std::int32_t>{7});
  CtrBatch batch;
  const std::vector<std::int32_t> wanted = {3, 0, 10};
  dataset.fill(wanted, batch);
  CHECK(batch.row == wanted);
  CHECK(batch.label == std::vector<float>{0, 1, 1});
  CHECK(batch.user == std::vector<std::int32_t>{1, 1, 2});
  CHECK(batch.item == std::vector<std::int32_t>{4, 1, 1});
  CHECK(batch.genres == std::vector<std::int32_t>{0, 0, 2, 1, 2, 1});
  CHECK(batch.history_length == std::vector<std::int32_t>{3, 0, 0});
  CHECK(batch.history_item == std::vector<std::int32_t>{1, 2, 3, 0, 0, 0, 0, 0, 0});
  CHECK(batch.history_label == std::vector<std::int32_t>{2, 1, 2, 0, 0, 0, 0, 0, 0});
  CHECK(batch.history_year == std::vector<std::int32_t>{1, features.vocabulary.year.id("1991"), 1, 0, 0, 0, 0, 0, 0});
  CHECK(std::vector<std::int32_t>(batch.history_genres.begin(), batch.history_genres.begin() + 6) ==
        std::vector<std::int32_t>{2, 1, 1, 0, 0, 0});
  const std::vector<std::int32_t> one = {1};
  dataset.fill(one, batch);  // the memory is used again: nothing of the last batch may show
  CHECK(batch.history_item == std::vector<std::int32_t>{0, 0, 1});
  CHECK(batch.history_label == std::vector<std::int32_t>{0, 0, 2});
}

TEST_CASE("MovieLens-100K: vocabularies and batches are consistent") {
  const auto folder = movielens_or_skip();
  if (!folder) return;
  const Prepared all(*folder);
  const CtrFeatures features = build_features(all.data, all.splits);
  CHECK(features.vocabulary.user.size() == 945);
  CHECK(features.vocabulary.occupation.size() == 23);
  CHECK(features.vocabulary.gender.size() == 4);
  CHECK(features.vocabulary.genre.size() == 21);
  CHECK(features.vocabulary.age.size() == 9);
  CHECK(features.genres_width == 6);
  const CtrDataset dataset(all.data, features, all.timelines, all.splits, all.labels);
  CtrBatch batch;
  std::int64_t unseen = 0;
  const BatchOrder order(2024, 0, static_cast<std::int64_t>(dataset.rows_of(Split::test).size()));
  for (std::int64_t b = 0; b < order.batches(2048); ++b) {
    std::vector<std::int32_t> rows;
    for (const std::int32_t i : order.batch(b, 2048)) rows.push_back(dataset.rows_of(Split::test)[static_cast<std::size_t>(i)]);
    dataset.fill(rows, batch);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      unseen += batch.item[i] == features.vocabulary.item.unknown();
      REQUIRE(batch.history_length[i] > 0);
      for (int k = 0; k < 50; ++k) {
        const bool padded = k < 50 - batch.history_length[i];
        const std::size_t at = i * 50 + static_cast<std::size_t>(k);
        REQUIRE((batch.history_item[at] == 0) == padded);
        REQUIRE((batch.history_label[at] == 0) == padded);
      }
    }
  }
  CHECK(std::round(1000.0 * static_cast<double>(unseen) / 19633) == 6);  // .6 % of the test rows
}

TEST_CASE("MovieLens-100K: the bias floors of the specification, to 4 digits") {
  const auto folder = movielens_or_skip();
  if (!folder) return;
  const Prepared all(*folder);
  const Interactions& table = all.data.interactions;
  const auto test = all.rows({Split::test});
  std::vector<std::uint8_t> labels;
  std::vector<std::int64_t> users;
  for (const std::int32_t row : test) {
    labels.push_back(all.labels[static_cast<std::size_t>(row)]);
    users.push_back(table.user[static_cast<std::size_t>(row)]);
  }
  const auto scores = [&](auto&& score) {
    std::vector<double> result;
    for (const std::int32_t row : test)
      result.push_back(score(table.user[static_cast<std::size_t>(row)], table.item[static_cast<std::size_t>(row)]));
    return result;
  };
  const BiasModel model(table, all.labels, all.rows({Split::train}));
  const auto both = scores([&](int user, int item) { return model.score(user, item); });
  CHECK(rounded(*auc(both, labels)) == 0.7684);
  const GroupAuc grouped = group_auc(both, labels, users);
  CHECK(rounded(grouped.value) == 0.6911);
  CHECK(grouped.rows == 18532);
  CHECK(rounded(logloss(both, labels, 0.001)) == 0.5838);
  CHECK(rounded(*auc(scores([&](int, int item) { return model.item_bias(item); }), labels)) == 0.7166);
  CHECK(rounded(*auc(scores([&](int user, int) { return model.user_bias(user); }), labels)) == 0.6486);
  const auto constant = scores([&](int, int) { return model.mean(); });
  CHECK(*auc(constant, labels) == 0.5);
  CHECK(rounded(logloss(constant, labels)) == 0.7150);
  const BiasModel more(table, all.labels, all.rows({Split::train, Split::valid}));
  const auto fitted = scores([&](int user, int item) { return more.score(user, item); });
  CHECK(rounded(*auc(fitted, labels)) == 0.7808);
  CHECK(rounded(group_auc(fitted, labels, users).value) == 0.6979);
  CHECK(rounded(logloss(fitted, labels, 0.001)) == 0.5720);
}

TEST_CASE("CoLLM's MovieLens-1M: the bias floors of the data description, to 4 digits") {
  const auto root = data_root();
  if (!root || !std::filesystem::exists(*root / "collm-ml-1m")) return skip_test("data collm-ml-1m");
  Interactions table;
  std::vector<std::uint8_t> labels;
  std::vector<std::int32_t> rows[3];
  const char* names[] = {"train.csv.gz", "valid.csv.gz", "test.csv.gz"};
  for (int part = 0; part < 3; ++part) {
    const auto path = *root / "collm-ml-1m" / names[part];
    LineReader lines(path.string(), open_bytes(path));
    Line line;
    REQUIRE(lines.next(line));
    REQUIRE(line.text.starts_with("user,item,label,"));
    while (lines.next(line)) {
      const std::size_t first = line.text.find(','), second = line.text.find(',', first + 1);
      rows[part].push_back(static_cast<std::int32_t>(labels.size()));
      table.user.push_back(table.users.add(line.text.substr(0, first)));
      table.item.push_back(table.items.add(line.text.substr(first + 1, second - first - 1)));
      labels.push_back(line.text[second + 1] == '1');
    }
  }
  REQUIRE(rows[2].size() == 7331);
  std::vector<std::uint8_t> truth;
  std::vector<std::int64_t> users;
  for (const std::int32_t row : rows[2]) {
    truth.push_back(labels[static_cast<std::size_t>(row)]);
    users.push_back(table.user[static_cast<std::size_t>(row)]);
  }
  const auto check = [&](const std::vector<std::int32_t>& fitted, std::array<double, 5> floors) {
    const BiasModel model(table, labels, fitted);
    std::vector<double> item, user, both;
    for (const std::int32_t row : rows[2]) {
      const auto r = static_cast<std::size_t>(row);
      item.push_back(model.item_bias(table.item[r]));
      user.push_back(model.user_bias(table.user[r]));
      both.push_back(model.score(table.user[r], table.item[r]));
    }
    CHECK(rounded(*auc(item, truth)) == floors[0]);
    CHECK(rounded(*auc(user, truth)) == floors[1]);
    CHECK(rounded(*auc(both, truth)) == floors[2]);
    CHECK(rounded(group_auc(both, truth, users).value) == floors[3]);
    CHECK(rounded(logloss(both, truth, 0.001)) == floors[4]);
  };
  check(rows[0], {0.7090, 0.5744, 0.7338, 0.6957, 0.6044});
  std::vector<std::int32_t> more = rows[0];
  more.insert(more.end(), rows[1].begin(), rows[1].end());
  check(more, {0.7163, 0.5921, 0.7449, 0.7030, 0.5953});
}
