// The report as a reader gets it: well-formed, inert whatever stands in the data, honest about intervals, calm about what is missing.
#include "trainers/expctr/report.h"

#include <doctest/doctest.h>

#include <fstream>
#include <set>

#include "base/error.h"
#include "engine/io/sha256.h"
#include "tests/report/html.h"
#include "tests/support/paths.h"
#include "trainers/expctr/report_charts.h"
#include "trainers/expctr/report_examples.h"
#include "trainers/expctr/report_figures.h"
#include "trainers/expctr/report_html.h"

using namespace expctr;
using namespace expctr::report;
using nlohmann::json;

namespace {

std::size_t count_of(std::string_view text, std::string_view what) {
  std::size_t count = 0;
  for (std::size_t at = text.find(what); at != std::string_view::npos; at = text.find(what, at + what.size())) ++count;
  return count;
}

json figure(const char* key, json value, json low, json high, bool difference, const char* better) {
  return {{"key", key},
          {"group", "Group"},
          {"name", std::string("name of ") + key},
          {"value", value},
          {"low", low},
          {"high", high},
          {"meaning", "what it means"},
          {"difference", difference},
          {"better", better}};
}

json explanation(int user, int item, int label, const std::string& split, const std::string& text, json untrained) {
  return {{"user", user},
          {"item", item},
          {"label", label},
          {"split", split},
          {"title", "A Film (1990)"},
          {"genres", "Drama"},
          {"liked", {"One", "Two"}},
          {"disliked", json::array()},
          {"explanation", text},
          {"untrained", untrained},
          {"p_lc", 0.61},
          {"p_lc_no_text", 0.58},
          {"p_ic", 0.7},
          {"p_id", 0.71},
          {"reward_lc", 0.05},
          {"reward_ic", 0.7},
          {"policy", 0},
          {"stage", "stage3"}};
}

ReportInput plausible() {
  ReportInput input;
  input.metrics = {{"job", "expctr"},
                   {"seed", 7},
                   {"seconds", 611.4},
                   {"peak_bytes", 741000000},
                   {"model", "Tiny"},
                   {"data", "films"},
                   {"counts", {{"train_pairs", 400}, {"valid_pairs", 100}, {"test_pairs", 200}, {"sft_pairs", 256}, {"train_rows", 70771}}},
                   {"stages", {{"sft", {{"seconds", 41.0}, {"steps", 12}}}, {"stage1", {{"seconds", 200.0}}}}},
                   {"frozen", {{"base_hash", "abc123"}}},
                   {"figures",
                    {figure("gain", 0.01, -0.002, 0.02, true, "higher"), figure("delta", 0.01, 0.002, 0.02, true, "higher"),
                     figure("auc", 0.64, 0.6, 0.7, false, "higher")}},
                   {"reduced", {{{"what", "training pairs"}, {"here", 400}, {"full", "all 70,771"}}}},
                   {"full_commands", {"expctr_engine run expctr --config full.yaml"}}};
  for (const char* job : {"stage1", "stage3"}) {
    for (int fold = 0; fold < 2; ++fold) {
      for (int step = 1; step <= 6; ++step) {
        input.log.push_back({{"job", job},
                             {"step", step},
                             {"fold", fold},
                             {"objective/kl", 0.1 * step},
                             {"objective/scores", 0.01 * step},
                             {"val/ratio", 1.0 + 1e-7 * step},
                             {"reward/lc", 0.01},
                             {"reward/ic", 0.5}});
      }
    }
  }
  input.log.push_back({{"job", "sft"}, {"step", 3}, {"valid/auc", 0.6}});
  input.log.push_back({{"job", "stage2"}, {"step", 1}, {"epoch", 1}, {"model", "with_text"}, {"valid/auc", 0.78}});
  input.log.push_back({{"job", "stage2"}, {"step", 1}, {"epoch", 1}, {"model", "text_free"}, {"valid/auc", 0.77}});
  for (int i = 0; i < 8; ++i)
    input.explanations.push_back(
        explanation(i, 10 + i, i % 2, "test", "text " + std::to_string(i), i < 2 ? json("text " + std::to_string(i)) : json("other")));
  input.config_yaml = "seed: 7  # <comment>\n";
  return input;
}

void check_well_formed(const std::string& html) {
  const HtmlReading reading = read_html(html);
  CHECK_MESSAGE(reading.fault.empty(), reading.fault);
  const std::set<std::string> ids(reading.ids.begin(), reading.ids.end());
  CHECK(ids.size() == reading.ids.size());
  for (const std::string& target : reading.link_targets) {
    REQUIRE(target.starts_with("#"));  // nothing but the page itself
    CHECK_MESSAGE(ids.count(target.substr(1)) == 1, target);
  }
  CHECK(reading.elements.at("script") == 1);
  CHECK(reading.elements.at("h1") == 1);
  for (const char* outside : {"img", "link", "iframe", "object", "form", "base"}) CHECK(reading.elements.count(outside) == 0);
  for (const char* number : {"nan", "inf"}) {
    CHECK(count_of(html, ">" + std::string(number) + "<") == 0);
    CHECK(count_of(html, ">-" + std::string(number) + "<") == 0);
    for (const char* attribute : {"x", "y", "cx", "cy"}) CHECK(count_of(html, fmt::format(" {}=\"{}", attribute, number)) == 0);
  }
  for (std::size_t at = html.find(" d=\""); at != std::string::npos; at = html.find(" d=\"", at + 1)) {
    const std::string path = html.substr(at + 4, html.find('"', at + 4) - at - 4);
    REQUIRE_MESSAGE(path.find_first_not_of("MLHVhvlz0123456789. -") == std::string::npos, path);
  }
}

}  // namespace

TEST_CASE("the test's reader of HTML sees faults") {
  CHECK(read_html("<p>a<b>c</b></p>").fault.empty());
  CHECK_FALSE(read_html("<p>a<b>c</p></b>").fault.empty());
  CHECK_FALSE(read_html("<p>a").fault.empty());
  CHECK_FALSE(read_html("<p>1 < 2</p>").fault.empty());
  CHECK_FALSE(read_html("<p class=\"a\"b\">x</p>").fault.empty());
  CHECK_FALSE(read_html("</p>").fault.empty());
}

TEST_CASE("a report of a finished run is well-formed and holds its parts") {
  const std::string html = render_report(plausible());
  check_well_formed(html);
  const HtmlReading reading = read_html(html);
  for (const char* id : {"summary", "figures", "changes", "examples", "curves", "size", "stages", "config"})
    CHECK_MESSAGE(std::count(reading.ids.begin(), reading.ids.end(), id) == 1, id);
  // Three charts of stage 1, five of stage 3, scorer and click model; none empty.
  CHECK(reading.elements.at("figure") == 10);
  CHECK(count_of(html, "<svg class=\"chart\"") == 10);
  CHECK(count_of(html, "No values in the log") == 0);
  CHECK(count_of(html, "<svg class=\"bar") == 3);
  for (const char* text : {"70,771", "10 min 11 s", "741 MB", "abc123", "expctr_engine run expctr --config full.yaml", "all 70,771",
                           "policy 1", "with explanations", "What this run shows", "1 of 2 comparisons"})
    CHECK_MESSAGE(reading.text.find(text) != std::string::npos, text);
  CHECK(render_report(plausible()) == html);
}

TEST_CASE("the policy of the page allows its own script and nothing else") {
  const std::string html = render_report(plausible());
  CHECK(html.find("default-src 'none'") != std::string::npos);
  CHECK(count_of(html, "http://") + count_of(html, "https://") == 0);
  const std::size_t begin = html.find("<script>") + 8, end = html.find("</script>");
  const std::string script = html.substr(begin, end - begin), hex = sha256_hex(std::as_bytes(std::span(script)));
  // Decode the base64 of the policy: an independent way to the same 32 bytes.
  const std::string_view letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string decoded;
  std::uint32_t bits = 0;
  int held = 0;
  for (std::size_t at = html.find("'sha256-") + 8; html[at] != '\'' && html[at] != '='; ++at) {
    bits = bits << 6 | static_cast<std::uint32_t>(letters.find(html[at]));
    held += 6;
    if (held >= 8) {
      held -= 8;
      decoded += fmt::format("{:02x}", bits >> held & 0xFF);
    }
  }
  CHECK(decoded == hex);
}

TEST_CASE("text of the input is inert") {
  const std::string evil = "\"><script>alert('x')</script><img src=x onerror=alert(1)> & \x01\xff";
  ReportInput input = plausible();
  for (const char* key : {"data", "model", "job", "seed"}) input.metrics[key] = evil;
  input.metrics["frozen"]["base_hash"] = evil;
  input.metrics["stages"]["sft"][evil] = evil;
  input.metrics["reduced"] = {{{"what", evil}, {"here", evil}, {"full", evil}}};
  input.metrics["full_commands"] = {evil};
  for (json& entry : input.metrics["figures"]) entry["name"] = entry["meaning"] = entry["group"] = evil;
  for (json& entry : input.explanations) {
    for (const char* key : {"title", "genres", "explanation", "untrained", "split", "user", "item"}) entry[key] = evil;
    entry["liked"] = entry["disliked"] = {evil, evil};
  }
  for (json& record : input.log) {
    if (record.contains("fold")) record["fold"] = evil;
    if (record.contains("model")) record["model"] = evil;
  }
  input.config_yaml = evil;
  const std::string html = render_report(input);
  check_well_formed(html);
  CHECK(count_of(html, "<script>") == 1);
  CHECK(count_of(html, "<img") == 0);
  CHECK(count_of(html, "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;") > 10);
  CHECK(html.find('\x01') == std::string::npos);
  CHECK(html.find('\xff') == std::string::npos);
  CHECK(escaped("a\tb <\"'&>\xC3\xA9\x7F\xC2\x85\xC3") == "a\tb &lt;&quot;&#39;&amp;&gt;\xC3\xA9\xEF\xBF\xBD");
}

TEST_CASE("a comparison whose interval contains 0 is not shown") {
  const auto verdict = [](json low, json high, bool difference, const char* better) {
    return verdict_of(figure_of(figure("k", 0.01, low, high, difference, better)));
  };
  CHECK(verdict(-0.002, 0.02, true, "higher") == Verdict::not_shown);
  CHECK(verdict(0.0, 0.02, true, "higher") == Verdict::not_shown);
  CHECK(verdict(-0.02, 0.0, true, "lower") == Verdict::not_shown);
  CHECK(verdict(0.02, -0.002, true, "higher") == Verdict::not_shown);  // ends the wrong way round
  CHECK(verdict(1e-9, 0.02, true, "higher") == Verdict::better);
  CHECK(verdict(0.001, 0.02, true, "lower") == Verdict::worse);
  CHECK(verdict(-0.02, -0.001, true, "higher") == Verdict::worse);
  CHECK(verdict(-0.02, -0.001, true, "lower") == Verdict::better);
  CHECK(verdict(0.001, 0.02, true, "") == Verdict::above);
  CHECK(verdict(-0.02, -0.01, true, "") == Verdict::below);
  CHECK(verdict(nullptr, nullptr, true, "higher") == Verdict::unjudged);
  CHECK(verdict(0.001, nullptr, true, "higher") == Verdict::unjudged);
  CHECK(verdict(0.001, std::nan(""), true, "higher") == Verdict::unjudged);
  CHECK(verdict(0.6, 0.7, false, "higher") == Verdict::level);
  CHECK(verdict_of(figure_of(figure("k", nullptr, nullptr, nullptr, true, "higher"))) == Verdict::missing);

  CHECK(verdict_text(Verdict::not_shown) == "not shown by this run");
  const auto rows = [](const json& entry) { return render_figures({{"figures", {entry}}}); };
  CHECK(rows(figure("k", 0.01, -0.002, 0.02, true, "higher")).find(">not shown by this run</span>") != std::string::npos);
  CHECK(rows(figure("k", 0.01, 0.002, 0.02, true, "higher")).find(">not shown by this run</span>") == std::string::npos);
  CHECK(rows(figure("k", 0.01, -0.002, 0.02, false, "higher")).find(">not shown by this run</span>") == std::string::npos);
  // A comparison without an interval is among those not shown.
  const std::string summary = render_summary({{"figures", {figure("k", 0.5, nullptr, nullptr, true, "higher")}}});
  CHECK(summary.find("0 of 1 comparisons") != std::string::npos);
  CHECK(summary.find("Shown: better") == std::string::npos);
}

TEST_CASE("value and interval of a row have the same decimals") {
  const std::string row = render_figures({{"figures", {figure("k", 0.0121, 0.00012, 0.0231, true, "higher")}}});
  CHECK(row.find(">+0.0121<") != std::string::npos);
  CHECK(row.find("[+0.0001, +0.0231]") != std::string::npos);  // a bound that is not 0 does not read as 0
  CHECK(render_figures({{"figures", {figure("k", 0.0121, 0.0042, 0.0231, true, "higher")}}}).find("[+0.004, +0.023]") != std::string::npos);
}

TEST_CASE("missing parts are said, and nothing crashes") {
  check_well_formed(render_report({}));
  const HtmlReading reading = read_html(render_report({}));
  for (const char* text : {"metrics.json is missing", "It shows nothing yet", "metrics.json holds no figures",
                           "has written no explanations", "log of this run is missing", "config.yaml is missing"})
    CHECK_MESSAGE(reading.text.find(text) != std::string::npos, text);

  ReportInput stopped = plausible();  // after stage 1
  stopped.metrics.erase("figures");
  std::erase_if(stopped.log, [](const json& record) { return record["job"] != "stage1"; });
  for (json& entry : stopped.explanations) entry["untrained"] = entry["p_lc"] = entry["p_ic"] = entry["p_id"] = nullptr;
  const std::string html = render_report(stopped);
  check_well_formed(html);
  CHECK(count_of(html, "<svg class=\"chart\"") == 3);
  CHECK(count_of(html, "No values in the log of this run") == 7);
  CHECK(html.find("texts were not kept") != std::string::npos);
  CHECK(html.find("0.580 → –") != std::string::npos);

  // Every field in turn of a wrong type, in every part.
  const std::vector<json> wrong = {
      nullptr, "text", -1, 1e300, 1e99, -1e-300, 1e20, true, json::array(), json::object(), json::array({nullptr, 1})};
  for (const json& value : wrong) {
    ReportInput input = plausible();
    for (auto& [key, field] : input.metrics.items()) field = value;
    for (json& entry : input.explanations)
      for (auto& [key, field] : entry.items()) field = value;
    for (json& record : input.log)
      for (auto& [key, field] : record.items())
        if (key != "job") field = value;
    check_well_formed(render_report(input));
    input = plausible();
    for (json& entry : input.metrics["figures"])
      for (auto& [key, field] : entry.items()) field = value;
    for (json& record : input.log)
      for (auto& [key, field] : record.items())
        if (key != "job" && key != "step") field = value;
    input.explanations.assign(3, value);
    check_well_formed(render_report(input));
  }
}

TEST_CASE("lines of a chart") {
  CHECK(nice_ticks(0.0, 0.037, 4) == std::vector<double>{0.0, 0.01, 0.02, 0.03, 0.04});
  CHECK(nice_ticks(1, 6, 6) == std::vector<double>{1, 2, 3, 4, 5, 6});
  const std::vector<double> around = nice_ticks(-0.3, 1.7, 4);
  CHECK(around.front() <= -0.3);
  CHECK(around.back() >= 1.7);

  // Steps count from 1 for each policy; the last of two records of one step counts; a value that is not finite breaks the line.
  std::vector<json> log;
  for (int step = 7; step <= 9; ++step)
    log.push_back({{"job", "stage1"}, {"step", step}, {"fold", 1}, {"k", step == 8 ? json(nullptr) : json(step)}});
  log.push_back({{"job", "stage1"}, {"step", 9}, {"fold", 1}, {"k", 90}});
  log.push_back({{"job", "stage3"}, {"step", 1}, {"fold", 1}, {"k", 5}});
  const std::vector<Series> series = policy_series(log, "stage1", "k");
  REQUIRE(series.size() == 1);
  CHECK(series[0].name == "policy 1");
  REQUIRE(series[0].points.size() == 3);
  CHECK(series[0].points[0] == std::pair(1.0, std::optional(7.0)));
  CHECK(series[0].points[1] == std::pair(2.0, std::optional<double>()));
  CHECK(series[0].points[2] == std::pair(3.0, std::optional(90.0)));
  const std::string html = render_chart({"t", "", "x", "y", series, std::nullopt, 0.0});
  const std::size_t begin = html.find("class=\"line\" d=\"") + 16;
  const std::string path = html.substr(begin, html.find('"', begin) - begin);
  CHECK(count_of(path, "M") == 2);
  CHECK(count_of(path, "L") == 0);
  for (const double constant : {0.0, 1.0, -1e-12, 1e9})
    check_well_formed("<h1></h1><script></script>" + render_chart({"t", "", "x", "y", {{"a", {{1.0, constant}}}}, std::nullopt, 0.0}));
}

TEST_CASE("examples are spread over users and labels and do not depend on the order of the file") {
  std::vector<json> pairs;
  for (int user = 0; user < 40; ++user) {
    for (int item = 0; item < 10; ++item)
      pairs.push_back(explanation(user, item, (user + item) % 3 == 0, item < 2 ? "test" : item < 3 ? "valid" : "train", "t", nullptr));
  }
  const std::vector<json> chosen = choose_examples(pairs, 60);
  REQUIRE(chosen.size() == 60);
  std::map<int, int> users, labels;
  for (const json& entry : chosen) {
    CHECK(entry["split"] == "test");  // 80 test pairs are enough
    ++users[entry["user"].get<int>()];
    ++labels[entry["label"].get<int>()];
  }
  CHECK(users.size() == 40);
  for (const auto& [user, count] : users) CHECK(count <= 2);
  CHECK(labels[0] >= 24);
  CHECK(labels[1] >= 24);
  std::reverse(pairs.begin(), pairs.end());
  CHECK(choose_examples(pairs, 60) == chosen);
  CHECK(choose_examples(pairs, 1000).size() == pairs.size());
  CHECK(choose_examples({}, 60).empty());
}

TEST_CASE("share of changed texts counts the newest text of a pair") {
  std::vector<json> explanations = {explanation(1, 1, 1, "test", "old", "same"), explanation(1, 2, 0, "test", "same", "same"),
                                    explanation(2, 1, 1, "valid", "new", nullptr)};
  explanations.push_back(explanation(1, 1, 1, "test", "newer", "same"));
  CHECK(newest_of_each_pair(explanations).size() == 3);
  const std::string html = render_changes(explanations);
  CHECK(html.find("<strong>50.0 %</strong>") != std::string::npos);
  CHECK(html.find("For 1 of 2 pairs") != std::string::npos);
}

TEST_CASE("numbers as a reader wants them") {
  CHECK(number_text(0.01424) == "0.0142");
  CHECK(number_text(-1.5) == "−1.50");
  CHECK(number_text(12800.0) == "12,800");
  CHECK(number_text(-1234567.0) == "−1,234,567");
  CHECK(number_text(3.1e-7) == "3.1e-07");
  CHECK(number_text(std::nan("")) == kMissing);
  CHECK(fixed_text(-0.0004, 3) == "0.000");
  CHECK(fixed_text(0.5, 2, true) == "+0.50");
  CHECK(duration_text(611.4) == "10 min 11 s");
  CHECK(duration_text(3840) == "1 h 04 min");
  CHECK(bytes_text(741e6) == "741 MB");
}

TEST_CASE("reading a run's folder") {
  const TemporaryFolder folder;
  const auto write = [&](const char* name, std::string_view text) { std::ofstream(folder / name, std::ios::binary) << text; };
  CHECK_THROWS_AS(read_report_input(folder / "absent"), UsageError);
  CHECK(read_report_input(folder.path()).metrics.is_null());
  write("log.jsonl", "{\"job\":\"sft\",\"step\":1}\n[1]\n\n{\"job\":\"sft\",\"st");
  write("explanations.jsonl", "");
  write("config.yaml", "seed: 1\n");
  write("metrics.json", "{\"seed\":1}");
  const ReportInput input = read_report_input(folder.path());
  CHECK(input.log.size() == 1);
  CHECK(input.explanations.empty());
  CHECK(input.config_yaml == "seed: 1\n");
  CHECK(text_of(input.metrics, "finished").ends_with(" UTC"));
  check_well_formed(render_report(input));
  for (const char* bad : {"{\"seed\":", "[]", "3"}) {
    write("metrics.json", bad);
    CHECK_THROWS_AS(read_report_input(folder.path()), InputError);
  }
}
