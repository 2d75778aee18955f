// Text-free DIN on the whole MovieLens-100K split with the configuration that is shipped (specs/expctr.md section 13, check 11).
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "data/bias_model.h"
#include "inference/metrics/ranking_quality.h"
#include "tests/support/paths.h"
#include "trainers/ctr/ctr_data.h"
#include "trainers/ctr/train.h"

using namespace expctr;

TEST_SUITE("slow") {
  TEST_CASE("text-free DIN beats the bias floor on the full ML-100K split") {
    const auto interactions = find_model("ml-100k/ml-100k.inter");
    if (!interactions) return skip_test("model ml-100k");
    const Config file = Config::load(source_root() / "configs" / "ctr" / "ml100k.yaml");
    ConfigReader reader(file);
    const CtrConfig config = read_ctr_config(reader);
    const CtrData data = load_ctr_data(interactions->parent_path(), read_ctr_data_config(reader.section("data")), config);
    const auto& test = data.rows.rows_of(Split::test);
    REQUIRE(data.rows.rows_of(Split::train).size() == 70771);
    REQUIRE(data.rows.rows_of(Split::valid).size() == 9596);
    REQUIRE(test.size() == 19633);

    const BiasModel bias(data.table.interactions, data.labels, data.rows.rows_of(Split::train));
    std::vector<double> scores;
    for (const std::int32_t row : test) {
      const auto at = static_cast<std::size_t>(row);
      scores.push_back(bias.score(data.table.interactions.user[at], data.table.interactions.item[at]));
    }
    const double floor = auc(scores, labels_of(data.rows, test)).value();
    CHECK(floor == doctest::Approx(0.7684).epsilon(1e-4));

    CtrTrainingHooks hooks;
    hooks.log = [](std::int64_t step, const nlohmann::json& record) {
      if (record.contains("valid_auc")) fmt::print("step {} valid auc {:.4f}\n", step, record["valid_auc"].get<double>());
    };
    const CtrTraining trained = train_ctr(config, all_rows(data.rows, data.features), 2024, hooks);
    const nlohmann::json metrics = click_metrics(data.rows, test, predict_clicks(trained.model, data.rows, test));
    fmt::print("DIN on ML-100K: test {}, floor {:.4f}, {:.0f} samples/s\n", metrics.dump(), floor,
               static_cast<double>(trained.rows_seen) / trained.seconds);
    CHECK(metrics.at("auc").get<double>() > floor);
    CHECK(metrics.at("auc").get<double>() >= 0.784);
  }
}
