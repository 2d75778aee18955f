// What a finished run of ExpCTR must show (specs expctr.md, section 13, hard checks 4 to 6), on the tiny run, through the built program.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/wait.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <map>
#include <set>
#include <sstream>

#include "base/hash.h"
#include "engine/io/checkpoint.h"
#include "engine/io/durable_file.h"
#include "tests/run/process.h"
#include "tests/run/results.h"
#include "tests/support/tiny_run.h"
#include "trainers/expctr/config.h"

namespace fs = std::filesystem;
using namespace expctr;
using nlohmann::json;

namespace {

constexpr std::uint64_t seed = 7;  // of the tiny run's configuration

/// A finished run, shared by the test cases that only read it.
struct Finished {
  TemporaryFolder folder;
  TinyRun tiny = write_tiny_run(folder.path());
  fs::path out = folder / "out";
  Finished() {
    const Ending ending = run_to_end(tiny.command("expctr", out));
    INFO(ending.errors);
    REQUIRE(ending.code == 0);
  }
};

const Finished& finished() {
  static const Finished run;
  return run;
}

/// Where a user belongs, by the formula of the specification; -1 is the scorer share.
struct Place {
  int fold = -1, policy = 0;
};
Place place_of(std::uint64_t user) {
  const std::uint64_t h = splitmix64(seed + user);
  const int part = static_cast<int>((h / 10) % 2);
  return h % 10 < 2 ? Place{-1, part} : Place{part, 1 - part};
}

/// The lines of the .inter file as numbers.
struct Rating {
  std::int64_t user = 0, item = 0, rating = 0, time = 0;
};
std::vector<Rating> ratings_of(const fs::path& file) {
  std::vector<Rating> rows;
  std::istringstream lines(read_text(file));
  std::string line;
  std::getline(lines, line);
  for (Rating r; lines >> r.user >> r.item >> r.rating >> r.time;) rows.push_back(r);
  return rows;
}
void write_ratings(const fs::path& file, const std::vector<Rating>& rows) {
  std::string text = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n";
  for (const Rating& r : rows) text += fmt::format("{}\t{}\t{}\t{}\n", r.user, r.item, r.rating, r.time);
  write_file_atomically(file, text);
}

json explain(const fs::path& run, std::int64_t user, std::int64_t item) {
  const Ending ending = run_to_end(
      {"explain", "--run", run.string(), "--user", std::to_string(user), "--item", std::to_string(item), "--json", "--threads", "1"});
  INFO(ending.errors);
  REQUIRE(ending.code == 0);
  return json::parse(ending.output);
}

std::vector<json> records_of_job(const std::vector<json>& log, const std::string& job) {
  std::vector<json> records;
  for (const json& record : log) {
    if (record.at("job") == job) records.push_back(record);
  }
  return records;
}

/// Exit code, and that the message has a hint and these words.
void check_refused(const Ending& ending, int code, const std::vector<std::string>& words) {
  CAPTURE(ending.errors);
  CHECK(ending.code == code);
  CHECK(ending.errors.find("error: ") != std::string::npos);
  CHECK(ending.errors.find("\nHINT: ") != std::string::npos);
  for (const std::string& word : words) {
    CAPTURE(word);
    CHECK(ending.errors.find(word) != std::string::npos);
  }
}

/// Exit status of scripts/check_quickstart.py on a run.
int check_quickstart(const fs::path& run) {
  const std::string command = fmt::format("python3 '{}' '{}' > '{}' 2>&1", (source_root() / "scripts/check_quickstart.py").string(),
                                          run.string(), (run.parent_path() / "said").string());
  const int status = std::system(command.c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

TEST_CASE("the log has every step of every policy and stage, and the first ratio of each is 1") {
  const std::vector<json> log = json_lines(finished().out / "log.jsonl");
  for (const char* stage : {"stage1", "stage3"}) {
    const std::vector<json> records = records_of_job(log, stage);
    REQUIRE(records.size() == 6);  // two policies, three steps
    for (std::size_t i = 0; i < records.size(); ++i) {
      const json& r = records[i];
      CHECK(r.at("step") == i + 1);
      CHECK(r.at("fold") == i / 3);
      CHECK(r.at("policy_step") == i % 3 + 1);
      CHECK(std::abs(r.at("val/ratio").get<double>() - 1.0) <= 1e-5);
      CHECK(r.at("val/ratio_error").get<double>() <= 1e-5);
      for (const char* key : {"objective/kl", "objective/scores", "policy/approxkl_avg", "policy/clipfrac_avg", "loss/policy_avg",
                              "loss/value_avg", "tokens/responses_len_mean", "time/rollout", "time/score", "time/update"}) {
        CAPTURE(key);
        CHECK(r.at(key).is_number());
      }
    }
    // Adapter off = base: before the first update of stage 1 policy and reference are the same model, to the bit.
    if (std::string(stage) == "stage1") {
      CHECK(records[0].at("objective/kl") == 0.0);
      CHECK(records[3].at("objective/kl") == 0.0);
    }
  }
  CHECK(records_of_job(log, "sft").size() == 4);
  CHECK(records_of_job(log, "stage2-text_free").size() == 9);
  CHECK(records_of_job(log, "stage2-with_text").size() == 9);
}

TEST_CASE("what is frozen keeps its hash in all stages, and every policy changes in both of its stages") {
  const fs::path out = finished().out;
  std::map<std::string, json> details;
  for (const char* stage : {"sft", "stage1", "stage2", "stage3"}) details[stage] = json_file(out / stage / "complete.json");
  for (const auto& [stage, d] : details) {
    CAPTURE(stage);
    CHECK(d.at("base_hash") == details["sft"].at("base_hash"));
  }
  CHECK(details["stage1"].at("scorer_hash") == details["sft"].at("adapter_hash"));
  CHECK(details["stage3"].at("scorer_hash") == details["sft"].at("adapter_hash"));
  CHECK(details["stage3"].at("encoder_hash") == details["stage2"].at("encoder_hash"));
  CHECK(details["stage3"].at("ctr_hash") == details["stage2"].at("ctr_hash"));
  std::set<json> policies;
  for (const json& hash :
       {details["stage1"].at("fresh_hashes"), details["stage1"].at("policy_hashes"), details["stage3"].at("policy_hashes")}) {
    REQUIRE(hash.size() == 2);
    policies.insert(hash.begin(), hash.end());
  }
  CHECK(policies.size() == 6);
}

TEST_CASE("folds: scorer and policies share no user, and nobody is explained by the policy that trained on him") {
  const fs::path out = finished().out;
  const std::vector<Rating> rows = ratings_of(finished().tiny.interactions());
  const std::vector<json> log = json_lines(out / "log.jsonl");
  const auto users_of = [&](const std::vector<json>& records) {
    std::set<std::int64_t> users;
    for (const json& record : records) {
      for (const std::size_t row : record.at("rows")) users.insert(rows.at(row).user);
    }
    return users;
  };
  const std::set<std::int64_t> scorer = users_of(records_of_job(log, "sft"));
  CHECK(scorer.size() > 3);
  for (const std::int64_t user : scorer) CHECK(place_of(static_cast<std::uint64_t>(user)).fold == -1);
  for (const char* stage : {"stage1", "stage3"}) {
    for (const json& record : records_of_job(log, stage)) {
      CHECK(record.at("rows").size() == 4);
      for (const std::int64_t user : users_of({record})) {
        CHECK(place_of(static_cast<std::uint64_t>(user)).fold == record.at("fold").get<int>());
        CHECK(!scorer.contains(user));
      }
    }
  }
  int explained = 0;
  for (const char* stage : {"stage1", "stage3"}) {
    for (const json& record : json_lines(out / stage / "explanations.jsonl")) {
      const Place place = place_of(static_cast<std::uint64_t>(rows.at(record.at("row").get<std::size_t>()).user));
      CHECK(record.at("policy") == place.policy);
      CHECK(record.at("policy").get<int>() != place.fold);
      ++explained;
    }
  }
  CHECK(explained == 24 + 12 + 20 + 12 + 20);
  for (const json& record : json_lines(out / "explanations.jsonl")) {
    const Rating& row = rows.at(record.at("row").get<std::size_t>());
    CHECK(record.at("user") == std::to_string(row.user));
    CHECK(record.at("item") == std::to_string(row.item));
    CHECK(record.at("label") == (row.rating >= 4 ? 1 : 0));
  }
}

TEST_CASE("no label in the text path: the own label and everything from the target's time on leave prompt and tokens as they were") {
  const TemporaryFolder folder;
  const TinyRun tiny = write_tiny_run(folder.path());
  const fs::path out = folder / "out";
  REQUIRE(run_to_end(tiny.command("stage1", out)).code == 0);
  const std::vector<Rating> rows = ratings_of(tiny.interactions());
  const PairOptions options = read_expctr_config(Config::load(tiny.config())).pairs;
  const auto prompts_of = [&] {
    const PairData data = load_pairs(tiny.data(), options);
    std::vector<std::string> prompts;
    for (std::int32_t row = 0; row < data.rows(); ++row) {
      const PromptContext context = data.context(data.pair(row));
      prompts.push_back(policy_prompt(context, options.prompt).user + scorer_prompt(context, options.prompt, "so").user);
    }
    return prompts;
  };
  const std::vector<std::string> before = prompts_of();

  int changed_by_history = 0;
  for (const std::size_t row : {std::size_t{7}, std::size_t{14}, std::size_t{200}, std::size_t{424}, std::size_t{899}}) {
    CAPTURE(row);
    const Rating target = rows[row];
    const json expected = explain(out, target.user, target.item);
    const auto opposite = [](std::int64_t rating) { return rating >= 4 ? std::int64_t{1} : std::int64_t{5}; };
    std::vector<Rating> own = rows, later = rows, earlier = rows;
    own[row].rating = opposite(own[row].rating);
    for (Rating& r : later) {
      if (r.time >= target.time) r.rating = opposite(r.rating);
    }
    for (Rating& r : earlier) {
      if (r.time < target.time) r.rating = opposite(r.rating);
    }
    for (const std::vector<Rating>* variant : {&own, &later}) {
      write_ratings(tiny.interactions(), *variant);
      CHECK(prompts_of()[row] == before[row]);
      json got = explain(out, target.user, target.item);
      CHECK(got.at("label") != expected.at("label"));
      got["label"] = expected.at("label");
      CHECK(got == expected);
    }
    // The check can fail: the history does count.
    write_ratings(tiny.interactions(), earlier);
    CHECK(prompts_of()[row] != before[row]);
    changed_by_history += explain(out, target.user, target.item).at("tokens") != expected.at("tokens") ? 1 : 0;
    write_ratings(tiny.interactions(), rows);
  }
  CHECK(changed_by_history >= 3);
}

TEST_CASE("a stored explanation can be reproduced alone, number by number, and explaining leaves the run's files alone") {
  const TemporaryFolder folder;
  const fs::path out = folder / "out";
  fs::copy(finished().out, out, fs::copy_options::recursive);
  const std::string configuration = read_text(out / "config.yaml");
  int checked = 0;
  for (const json& record : json_lines(out / "explanations.jsonl")) {
    if (record.at("split") != "test" || ++checked > 8) continue;
    const json got = explain(out, std::stoi(record.at("user").get<std::string>()), std::stoi(record.at("item").get<std::string>()));
    for (const auto& [key, value] : got.items()) {
      CAPTURE(key);
      CHECK(record.at(key) == value);
    }
    CHECK(got.size() == 11);
  }
  CHECK(checked >= 8);
  CHECK(differences(results_of(finished().out), results_of(out)) == "");
  CHECK(read_text(out / "config.yaml") == configuration);
  check_refused(run_to_end({"explain", "--run", out.string(), "--user", "1000", "--item", "1"}), 2, {"no user '1000'"});
}

TEST_CASE("neither the store of prefixes nor the number of threads changes a bit of a run") {
  const Finished& run = finished();
  const std::map<std::string, std::string> expected = results_of(run.out);
  for (const std::vector<std::string>& more :
       std::vector<std::vector<std::string>>{{"--set", "cache.prefix_bytes=0"}, {"--threads", "2"}, {"--set", "explain.batch=7"}}) {
    CAPTURE(more.back());
    const TemporaryFolder folder;
    const Ending ending = run_to_end(run.tiny.command("expctr", folder / "out", more));
    INFO(ending.errors);
    CHECK(ending.code == 0);
    CHECK(differences(expected, results_of(folder / "out")) == "");
  }
}

TEST_CASE("the stages one by one give what the whole job gives") {
  const Finished& run = finished();
  const TemporaryFolder folder;
  for (const char* job : {"stage1", "stage2", "stage3", "evaluate"}) {
    const Ending ending = run_to_end(run.tiny.command(job, folder / "out"));
    CAPTURE(job);
    INFO(ending.errors);
    CHECK(ending.code == 0);
  }
  CHECK(differences(results_of(run.out), results_of(folder / "out")) == "");
}

TEST_CASE("a stage whose predecessor has not run names the command that comes first") {
  const TemporaryFolder folder;
  const TinyRun& tiny = finished().tiny;
  const std::string configuration = tiny.config().string();
  check_refused(run_to_end(tiny.command("stage2", folder / "a")), 2, {"stage1 has not run", "expctr_engine run stage1", configuration});
  check_refused(run_to_end(tiny.command("stage3", folder / "a")), 2, {"stage2 has not run", "expctr_engine run stage2", configuration});
  check_refused(run_to_end(tiny.command("evaluate", folder / "a")), 2, {"stage1 has not run", "expctr_engine run stage1", configuration});
  CHECK(!fs::exists(folder / "a" / "stage2"));
}

TEST_CASE("a changed configuration does not overwrite results: exit code 2, and the run stays as it was") {
  const TemporaryFolder folder;
  const Finished& run = finished();
  const fs::path out = folder / "out";
  fs::copy(run.out, out, fs::copy_options::recursive);
  const std::map<std::string, std::string> before = results_of(out);
  const std::string configuration = read_text(out / "config.yaml");
  for (const auto& [job, change] : std::vector<std::pair<std::string, std::string>>{{"expctr", "ppo.lr=0.02"},
                                                                                    {"sft", "sft.lr=0.02"},
                                                                                    {"stage1", "ppo.steps=2"},
                                                                                    {"stage2", "ctr.lr=0.02"},
                                                                                    {"stage3", "reward.ic.weight=2"},
                                                                                    {"stage3", "ppo.steps=2"},
                                                                                    {"evaluate", "seed=8"}}) {
    CAPTURE(job);
    CAPTURE(change);
    check_refused(run_to_end(run.tiny.command(job, out, {"--set", change})), 2, {"another configuration"});
    CHECK(differences(before, results_of(out)) == "");
    CHECK(read_text(out / "config.yaml") == configuration);
  }
  // What no result depends on may change.
  CHECK(run_to_end(run.tiny.command("expctr", out, {"--set", "cache.prefix_bytes=1000"})).code == 0);
  CHECK(differences(before, results_of(out)) == "");
}

TEST_CASE("bad input: each a clear error with its exit code") {
  const TemporaryFolder folder;
  const TinyRun tiny = write_tiny_run(folder.path());
  const fs::path out = folder / "out";
  check_refused(run_to_end(tiny.command("expctr", out, {"--set", "ppo.stepz=3"})), 2, {"ppo.stepz", "did you mean 'ppo.steps'"});
  CHECK(!fs::exists(out));
  write_file_atomically(folder / "a-file", "here\n");
  check_refused(run_to_end(tiny.command("expctr", folder / "a-file")), 2, {"a-file"});
  CHECK(read_text(folder / "a-file") == "here\n");

  const std::string inter = read_text(tiny.interactions());
  std::string without_time;
  std::istringstream lines(inter);
  for (std::string line; std::getline(lines, line);) without_time += line.substr(0, line.rfind('\t')) + "\n";
  write_file_atomically(tiny.interactions(), without_time);
  check_refused(run_to_end(tiny.command("expctr", out)), 3, {"tiny.inter", "timestamp"});
  write_file_atomically(tiny.interactions(), inter);

  for (const fs::path& folder_of : {tiny.model(), tiny.encoder()}) {
    const std::string weights = read_text(folder_of / "model.safetensors");
    for (const std::size_t size : {std::size_t{0}, std::size_t{7}, std::size_t{100}, weights.size() / 2, weights.size() - 1}) {
      CAPTURE(size);
      write_file_atomically(folder_of / "model.safetensors", weights.substr(0, size));
      check_refused(run_to_end(tiny.command("expctr", out)), 3, {"model.safetensors"});
    }
    write_file_atomically(folder_of / "model.safetensors", weights);
  }
  const Ending ending = run_to_end(tiny.command("expctr", out));
  INFO(ending.errors);
  CHECK(ending.code == 0);  // nothing half-written stands in the way
}

TEST_CASE("a write that fails: exit code 4, the last checkpoint is whole, and the same command goes on to the same bits") {
  const Finished& run = finished();
  const TemporaryFolder folder;
  const fs::path out = folder / "out";
  int failed = 0;
  for (int n = 1; n <= 200; n += 13) {
    const std::string fault = fmt::format("EXPCTR_FAULT=any:{}:{}", n, n % 2 == 0 ? "enospc" : "eio");
    CAPTURE(fault);
    const Ending ending = run_to_end(run.tiny.command("expctr", out), {fault});
    CAPTURE(ending.errors);
    if (ending.code == 0) continue;
    ++failed;
    CHECK(ending.code == 4);
    CHECK(ending.errors.find("\nHINT: ") != std::string::npos);
    if (fs::exists(out / "checkpoints")) {
      for (const fs::directory_entry& job : fs::directory_iterator(out / "checkpoints")) {
        Checkpoint::open_latest(job.path(), [](const std::string& warning) { FAIL_CHECK(warning); });
      }
    }
  }
  CHECK(failed >= 6);
  const Ending ending = run_to_end(run.tiny.command("expctr", out));
  INFO(ending.errors);
  CHECK(ending.code == 0);
  CHECK(differences(results_of(run.out), results_of(out)) == "");
}

TEST_CASE("the check of the quickstart passes on a finished run and sees each kind of damage") {
  const TemporaryFolder folder;
  const auto status_with = [&](const std::string& file, const std::function<std::string(std::string)>& damage) {
    const fs::path out = folder / "out";
    fs::remove_all(out);
    fs::copy(finished().out, out, fs::copy_options::recursive);
    const std::string before = read_text(out / file), after = damage(before);
    CHECK(after != before);
    write_file_atomically(out / file, after);
    return check_quickstart(out);
  };
  const auto lines_with = [](const std::function<bool(json&)>& keep) {
    return [keep](const std::string& text) {
      std::istringstream lines(text);
      std::string result;
      for (std::string line; std::getline(lines, line);) {
        json record = json::parse(line);
        if (keep(record)) result += record.dump() + "\n";
      }
      return result;
    };
  };
  const int intact = check_quickstart(finished().out);
  INFO(read_text(finished().out.parent_path() / "said"));
  CHECK(intact == 0);
  CHECK(status_with("log.jsonl", lines_with([](json& r) { return r["job"] != "stage3" || r["step"] != 5; })) == 1);
  CHECK(status_with("log.jsonl", lines_with([](json& r) {
                      if (r["job"] == "stage1" && r["step"] == 2) r["val/ratio"] = 1.0001;
                      return true;
                    })) == 1);
  CHECK(status_with("explanations.jsonl", lines_with([](json& r) {
                      r["explanation"] = "one text for all";
                      return true;
                    })) == 1);
  CHECK(status_with("explanations.jsonl", lines_with([](json& r) {
                      r["p_lc"] = r["p_lc_no_text"];
                      return true;
                    })) == 1);
  const auto details_with = [](const std::function<void(json&)>& change) {
    return [change](const std::string& text) {
      json details = json::parse(text);
      change(details);
      return details.dump();
    };
  };
  CHECK(status_with("stage1/complete.json", details_with([](json& d) { d["policy_hashes"][1] = d["fresh_hashes"][1]; })) == 1);
  CHECK(status_with("stage3/complete.json", details_with([](json& d) { d["base_hash"] = "another"; })) == 1);
  CHECK(status_with("report.html", [](const std::string& page) { return page + "<img src='https://example.org/x.png'>"; }) == 1);
  CHECK(status_with("metrics.json", [](const std::string&) { return std::string("{"); }) == 2);
}
