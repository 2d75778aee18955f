// Training of click models on a planted catalogue: it learns what bias cannot, a stopped run ends with the same bits, texts enter where
// they should.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "cpu/thread_pool.h"
#include "data/bias_model.h"
#include "engine/log/process.h"
#include "inference/metrics/ranking_quality.h"
#include "models/parameters.h"
#include "tests/ctr/planted.h"
#include "tests/support/paths.h"
#include "trainers/ctr/ctr_data.h"
#include "trainers/ctr/train.h"

using namespace expctr;

namespace {

CtrConfig small_config() {
  CtrConfig config;
  config.embedding = 8;
  config.embedding_deviation = 0.05;
  config.attention = {8, 4};
  config.mlp = {16, 8};
  config.dropout = 0.1;
  config.embedding_regularizer = 1e-4;
  config.lr = 1e-2;
  config.batch = 128;
  config.epochs = 6;
  config.adapter = {8, 4};
  config.history = 12;
  return config;
}

const CtrData& planted() {
  static const CtrData data = make_ctr_data(planted_catalogue(), {}, small_config());
  return data;
}

CtrTrainingData rows_of(const CtrData& data, const TextVectors* texts = nullptr) { return all_rows(data.rows, data.features, texts); }

double test_auc(const Din& model, const CtrData& data, const TextVectors* texts = nullptr) {
  const auto& rows = data.rows.rows_of(Split::test);
  const auto p = texts == nullptr ? predict_clicks(model, data.rows, rows) : predict_clicks(model, data.rows, rows, *texts);
  return auc(p, labels_of(data.rows, rows)).value();
}

}  // namespace

TEST_CASE("DIN finds a planted taste that item and user bias cannot") {
  const CtrData& data = planted();
  std::vector<nlohmann::json> log;
  CtrTrainingHooks hooks;
  hooks.log = [&](std::int64_t step, nlohmann::json record) {
    CHECK(step == std::ssize(log) + 1);
    log.push_back(std::move(record));
  };
  const CtrTraining trained = train_ctr(small_config(), rows_of(data), 7, hooks);
  const double found = test_auc(trained.model, data);

  const auto& rows = data.rows.rows_of(Split::test);
  const BiasModel bias(data.table.interactions, data.labels, data.rows.rows_of(Split::train));
  std::vector<double> scores;
  for (const std::int32_t row : rows)
    scores.push_back(bias.score(data.table.interactions.user[static_cast<std::size_t>(row)],
                                data.table.interactions.item[static_cast<std::size_t>(row)]));
  const double floor = auc(scores, labels_of(data.rows, rows)).value();
  INFO("DIN ", found, " bias ", floor);
  CHECK(floor < 0.7);
  CHECK(found > 0.85);
  CHECK(found < 0.99);  // 5 % of the labels are flipped: more would mean that the label leaks
  REQUIRE(!log.empty());
  CHECK(log.back().at("valid_auc").get<double>() > 0.8);
  CHECK(log.front().at("loss").get<double>() == doctest::Approx(std::log(2.0)).epsilon(0.05));
  CHECK(log.back().at("train_loss").get<double>() < log.front().at("loss").get<double>());
}

namespace {

// Clipping is on at most steps, so that the norm with its kept sum of squares decides about the bits.
void check_resumed_bits(bool sparse) {
  const CtrData& data = planted();
  CtrConfig config = small_config();
  config.clip = 0.05;
  config.sparse = sparse;
  if (sparse) config.embedding_regularizer = 0;
  config.epochs = 3;
  config.schedule = "cosine";
  config.warm_up = 5;
  const CtrTraining whole = train_ctr(config, rows_of(data), 11);
  const std::string wanted = hash_of(whole.model.state());
  const std::int64_t per_epoch = whole.steps / 3;
  REQUIRE(whole.steps == 3 * per_epoch);

  for (const std::int64_t stop : {std::int64_t{1}, per_epoch - 1, per_epoch, per_epoch + 3, 2 * per_epoch}) {
    INFO("stopped after step ", stop);
    const TemporaryFolder folder;
    CtrTrainingHooks hooks;
    hooks.checkpoints = folder / "checkpoints";
    std::int64_t last = 0;
    hooks.log = [&](std::int64_t step, const nlohmann::json&) { last = step; };
    hooks.stop = [&] { return last == stop; };
    CHECK_THROWS_AS(train_ctr(config, rows_of(data), 11, hooks), InterruptedError);

    hooks.stop = nullptr;
    hooks.resume = Checkpoint::open_latest(hooks.checkpoints, [](const std::string& text) { FAIL(text); });
    REQUIRE(hooks.resume.has_value());
    CHECK(ctr_checkpoint_step(*hooks.resume) == stop);
    std::int64_t first = 0;
    hooks.log = [&](std::int64_t step, const nlohmann::json&) { first = first == 0 ? step : first; };
    const CtrTraining resumed = train_ctr(config, rows_of(data), 11, hooks);
    CHECK(first == stop + 1);
    CHECK(resumed.steps == whole.steps);
    CHECK(resumed.best_epoch == whole.best_epoch);
    CHECK(hash_of(resumed.model.state()) == wanted);

    // A finished run, asked again, trains nothing and gives the same model.
    hooks.resume = Checkpoint::open_latest(hooks.checkpoints, [](const std::string& text) { FAIL(text); });
    hooks.log = [](std::int64_t, const nlohmann::json&) { FAIL("a step after the end"); };
    CHECK(hash_of(train_ctr(config, rows_of(data), 11, hooks).model.state()) == wanted);
  }
  CHECK(hash_of(train_ctr(config, rows_of(data), 12).model.state()) != wanted);
}

}  // namespace

TEST_CASE("a training stopped after any step and resumed ends with the same bits") { check_resumed_bits(false); }
TEST_CASE("so does one whose tables move only where a batch reads them") { check_resumed_bits(true); }

TEST_CASE("a checkpoint of another run is refused") {
  const CtrData& data = planted();
  CtrConfig config = small_config();
  config.epochs = 1;
  const TemporaryFolder folder;
  CtrTrainingHooks hooks;
  hooks.checkpoints = folder / "checkpoints";
  train_ctr(config, rows_of(data), 3, hooks);
  hooks.resume = Checkpoint::open_latest(hooks.checkpoints, [](const std::string&) {});
  CHECK_THROWS_AS(train_ctr(config, rows_of(data), 4, hooks), UsageError);
  config.embedding = 4;
  CHECK_THROWS_AS(train_ctr(config, rows_of(data), 3, hooks), InputError);
}

TEST_CASE("parallel: training gives the same bits with 1 and 2 threads") {
  const CtrData& data = planted();
  CtrConfig config = small_config();
  config.epochs = 1;
  const int before = cpu::thread_count();
  cpu::set_thread_count(1);
  const std::string one = hash_of(train_ctr(config, rows_of(data), 5).model.state());
  cpu::set_thread_count(2);
  const std::string two = hash_of(train_ctr(config, rows_of(data), 5).model.state());
  cpu::set_thread_count(before);
  CHECK(one == two);
}

TEST_CASE("texts help where they tell the taste; rows without one do not depend on texts") {
  const CtrData& data = planted();
  CtrConfig config = small_config();
  config.epochs = 4;
  config.dropout = 0;
  // The text of a row, for two rows in three: its noiseless label as a direction in 6 dimensions, plus noise.
  TextVectors texts;
  texts.width = 6;
  for (std::int32_t row = 0; row < std::ssize(data.labels); ++row) {
    const bool has = row % 3 != 0;
    texts.of_row.push_back(has ? static_cast<std::int32_t>(texts.texts()) : -1);
    if (!has) continue;
    for (int c = 0; c < 6; ++c) {
      const double noise = static_cast<double>(splitmix64(static_cast<std::uint64_t>(row * 6 + c)) >> 11) / 9007199254740992.0 - 0.5;
      texts.values.push_back(
          static_cast<float>(noise + (data.labels[static_cast<std::size_t>(row)] != 0 ? 1.0 : -1.0) * (c % 2 == 0 ? 1.0 : -1.0)));
    }
  }
  const CtrTraining with = train_ctr(config, rows_of(data, &texts), 7), without = train_ctr(config, rows_of(data), 7);
  CHECK(test_auc(with.model, data, &texts) > test_auc(without.model, data) + 0.03);

  TextVectors other = texts;
  std::reverse(other.values.begin(), other.values.end());
  const auto& rows = data.rows.rows_of(Split::test);
  const auto p = predict_clicks(with.model, data.rows, rows, texts), q = predict_clicks(with.model, data.rows, rows, other),
             none = predict_clicks(with.model, data.rows, rows);
  bool changed = false;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (texts.of_row[static_cast<std::size_t>(rows[i])] < 0) {
      CHECK(p[i] == q[i]);
      CHECK(p[i] == none[i]);
    } else {
      changed = changed || p[i] != q[i];
    }
  }
  CHECK(changed);
}

TEST_CASE("predictions of a row do not depend on the batch, and survive the file") {
  const CtrData& data = planted();
  CtrConfig config = small_config();
  config.epochs = 1;
  const Din model = train_ctr(config, rows_of(data), 5).model;
  const auto& rows = data.rows.rows_of(Split::test);
  const auto together = predict_clicks(model, data.rows, rows);
  CHECK(predict_clicks(model, data.rows, rows, {}, {}, 1) == together);
  CHECK(predict_clicks(model, data.rows, rows, {}, {}, 33) == together);

  const TemporaryFolder folder;
  save_din(model, folder / "model.safetensors");
  const Din again = load_din(folder / "model.safetensors");
  CHECK(hash_of(again.state()) == hash_of(model.state()));
  CHECK(predict_clicks(again, data.rows, rows) == together);
}

TEST_CASE("padding positions change no prediction in evaluation mode") {
  CtrConfig longer = small_config(), longest = small_config();
  longer.history = 64;  // more than any history: 40 ratings a user
  longest.history = 90;
  const CtrData a = make_ctr_data(planted_catalogue(), {}, longer), b = make_ctr_data(planted_catalogue(), {}, longest);
  const Din model(din_options(small_config(), ctr_fields(a.features), 0), 3);
  const auto& rows = a.rows.rows_of(Split::test);
  const auto p = predict_clicks(model, a.rows, rows), q = predict_clicks(model, b.rows, rows);
  for (std::size_t i = 0; i < rows.size(); ++i) CHECK(p[i] == doctest::Approx(q[i]).epsilon(1e-6));
}
