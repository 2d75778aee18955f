// The job `run ctr` from files to metrics.json, on a small planted catalogue.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "engine/io/durable_file.h"
#include "engine/log/logger.h"
#include "tests/ctr/planted.h"
#include "tests/support/paths.h"
#include "trainers/ctr/ctr_job.h"
#include "trainers/ctr/train.h"

using namespace expctr;

namespace {

void write_atomic_files(const std::filesystem::path& folder) {
  const Dataset data = planted_catalogue(30, 24, 20);
  std::string inter = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n",
              item = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n",
              user = "user_id:token\tage:token\tgender:token\toccupation:token\n";
  const Interactions& table = data.interactions;
  for (std::size_t r = 0; r < table.user.size(); ++r) {
    inter +=
        fmt::format("{}\t{}\t{}\t{}\n", table.users.text(table.user[r]), table.items.text(table.item[r]), table.rating[r], table.time[r]);
  }
  for (std::size_t i = 0; i < data.items.size(); ++i)
    item += fmt::format("{}\t{}\t{}\t{}\n", i + 1, data.items[i].title, data.items[i].year, data.items[i].genres[0]);
  for (std::size_t u = 0; u < data.users.size(); ++u)
    user += fmt::format("{}\t{}\t{}\t{}\n", u + 1, data.users[u].age, data.users[u].gender, data.users[u].occupation);
  make_folders(folder);
  write_file_atomically(folder / "planted.inter", inter);
  write_file_atomically(folder / "planted.item", item);
  write_file_atomically(folder / "planted.user", user);
}

RunOptions options_for(const std::filesystem::path& data, const std::filesystem::path& out) {
  RunOptions options;
  options.job = "ctr";
  options.out = out;
  options.overrides = {"data.path=" + data.string(), "ctr.embedding=4", "ctr.attention=[4]", "ctr.mlp=[8]", "ctr.batch=100", "ctr.epochs=2",
                       "data.history.max=8"};
  return options;
}

std::vector<nlohmann::json> log_of(const std::filesystem::path& out) {
  std::vector<nlohmann::json> records;
  const std::string text = read_text(out / "log.jsonl");
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text.find('\n', at);
    records.push_back(nlohmann::json::parse(text.substr(at, end - at)));
    at = end + 1;
  }
  return records;
}

}  // namespace

TEST_CASE("run ctr writes metrics, log, model and a runnable configuration; a finished run is not trained again") {
  Logger::instance().set_level(LogLevel::error);
  const TemporaryFolder folder;
  write_atomic_files(folder / "data");
  const RunOptions options = options_for(folder / "data", folder / "run");
  run_ctr(options);

  const auto metrics = nlohmann::json::parse(read_text(folder / "run" / "metrics.json"));
  CHECK(metrics.at("job") == "ctr");
  CHECK(metrics.at("seed") == 2024);
  for (const char* part : {"valid", "test"}) {
    for (const char* key : {"rows", "auc", "gauc", "logloss"}) CHECK(metrics.at(part).contains(key));
  }
  CHECK(metrics.at("train").at("rows") == 30 * 14);
  CHECK(metrics.at("train").at("steps") == 10);
  CHECK(metrics.at("train").at("samples_per_second").get<double>() > 0);
  CHECK(metrics.at("peak_bytes").get<std::int64_t>() > 0);
  const auto log = log_of(folder / "run");
  REQUIRE(log.size() == 10);
  for (std::size_t i = 0; i < log.size(); ++i) CHECK(log[i].at("step") == i + 1);
  CHECK(log[4].contains("valid_auc"));
  CHECK_FALSE(log[5].contains("valid_auc"));
  CHECK(load_din(folder / "run" / "model.safetensors").options().embedding == 4);

  const std::string model = read_text(folder / "run" / "model.safetensors");
  run_ctr(options);  // resumes at the end
  CHECK(read_text(folder / "run" / "model.safetensors") == model);
  CHECK(log_of(folder / "run").size() == 10);
  CHECK(nlohmann::json::parse(read_text(folder / "run" / "metrics.json")).at("test") == metrics.at("test"));

  RunOptions again;  // the resolved configuration alone gives the same model
  again.job = "ctr";
  again.config = folder / "run" / "config.yaml";
  again.out = folder / "again";
  run_ctr(again);
  CHECK(read_text(folder / "again" / "model.safetensors") == model);
  Logger::instance().set_level(LogLevel::info);
}

TEST_CASE("run ctr refuses what cannot work, and writes nothing then") {
  const TemporaryFolder folder;
  write_atomic_files(folder / "data");
  RunOptions one_label = options_for(folder / "data", folder / "run");
  one_label.overrides.push_back("data.label_rule=rating >= 1");
  CHECK_THROWS_AS(run_ctr(one_label), UsageError);
  RunOptions unknown = options_for(folder / "data", folder / "run");
  unknown.overrides.push_back("ctr.embeding=4");
  CHECK_THROWS_AS(run_ctr(unknown), UsageError);
  RunOptions no_data = options_for(folder / "nowhere", folder / "run");
  CHECK_THROWS_AS(run_ctr(no_data), Error);
  CHECK_FALSE(std::filesystem::exists(folder / "run"));
  write_file_atomically(folder / "file", std::string_view("x"));
  CHECK_THROWS_AS(run_ctr(options_for(folder / "data", folder / "file")), UsageError);
}
