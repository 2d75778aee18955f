#include "engine/config/config.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "engine/config/config_reader.h"
#include "tests/support/paths.h"

using namespace expctr;

namespace {

/// The message of the UsageError that `action` throws, "" when it throws none.
template <class Action>
std::string refusal(Action action) {
  try {
    action();
  } catch (const UsageError& error) {
    CHECK(error.code() == ExitCode::usage);
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, std::string_view part) {
  const bool found = text.find(part) != std::string::npos;
  if (!found) MESSAGE(text);
  return found;
}

constexpr const char* sample = R"(# a comment
seed: 7
ppo:
  lr: 3e-4            # comment
  epochs: 2
  whiten: true
lora:
  layers: last 4
  targets: [q_proj, "v_proj"]
evaluate.k: [20, 50]
ratio: [0.1, 1]
llm: {compute: bf16}
stop: null
quoted: "12"
)";

}  // namespace

TEST_CASE("values come typed, with defaults for what is missing") {
  const Config config = Config::parse(sample, "x.yaml");
  ConfigReader reader(config);
  CHECK(reader.get("seed", std::uint64_t{1}) == 7);
  ConfigReader ppo = reader.section("ppo");
  CHECK(ppo.get("lr", 1e-5) == 3e-4);
  CHECK(ppo.get("epochs", 4) == 2);
  CHECK(ppo.get("whiten", false));
  CHECK(ppo.get("clip", 0.2) == 0.2);
  CHECK(ppo.get("target_kl", std::optional<double>()) == std::nullopt);
  CHECK(reader.get("lora.layers", "all") == "last 4");
  CHECK(reader.get("lora.targets", std::vector<std::string>{}) == std::vector<std::string>{"q_proj", "v_proj"});
  CHECK(reader.section("evaluate").get("k", std::vector<int>{10}) == std::vector<int>{20, 50});
  CHECK(reader.get("ratio", std::vector<double>{}) == std::vector<double>{0.1, 1.0});
  CHECK(reader.choice("llm.compute", "f32", {"f32", "bf16", "int8"}) == "bf16");
  CHECK(reader.get("stop", std::optional<std::string>("x")) == std::nullopt);
  CHECK(reader.required<std::string>("quoted") == "12");
  CHECK(reader.given("seed"));
  CHECK_FALSE(reader.given("ppo.clip"));
  reader.finish();
}

TEST_CASE("--set overrides, and is named as the place of an error") {
  Config config = Config::parse(sample, "x.yaml");
  config.set("ppo.lr=1e-4");
  config.set("evaluate.k=[1,2,3]");
  config.set("lora.layers=last 2");
  config.set("stop=a: b");
  config.set("new.key=");
  ConfigReader reader(config);
  CHECK(reader.get("ppo.lr", 0.0) == 1e-4);
  CHECK(reader.get("evaluate.k", std::vector<int>{}).size() == 3);
  CHECK(reader.get("lora.layers", "") == "last 2");
  CHECK(reader.get("new.key", std::optional<int>(3)) == std::nullopt);
  config.set("ppo.lr=fast");
  ConfigReader again(config);
  const std::string message = refusal([&] { again.get("ppo.lr", 0.0); });
  CHECK(contains(message, "--set ppo.lr=fast: ppo.lr is fast, expected a number"));
  CHECK(contains(refusal([&] { config.set("ppo.lr"); }), "no '='"));
  CHECK(contains(refusal([&] { config.set("=3"); }), "is not a key"));
  CHECK(contains(refusal([&] { config.set("a..b=3"); }), "is not a key"));
  CHECK(contains(refusal([&] { config.set("ppo=3"); }), "'ppo' is a section"));
  CHECK(contains(refusal([&] { config.set("seed.x=3"); }), "'seed' is a value"));
  CHECK(contains(refusal([&] { config.set("seed=[1"); }), "not YAML"));
}

TEST_CASE("an unknown key names its line and the nearest known key") {
  ConfigReader reader(Config::parse("seed: 1\nppo:\n  lrr: 1\n", "x.yaml"));
  reader.get("seed", 0);
  reader.get("ppo.lr", 0.0);
  reader.get("ppo.epochs", 4);
  CHECK(refusal([&] { reader.finish(); }) == "x.yaml, line 3: unknown key 'ppo.lrr'\nHINT: did you mean 'ppo.lr'?");
  Config config = Config::parse("", "x.yaml");
  config.set("lr=1");
  config.set("wholly.unrelated_name=1");
  ConfigReader other(config);
  other.get("ppo.lr", 0.0);
  const std::string message = refusal([&] { other.finish(); });
  CHECK(contains(message, "--set lr=1: unknown key 'lr'; --set wholly.unrelated_name=1: unknown key 'wholly.unrelated_name'"));
  CHECK(contains(message, "did you mean 'ppo.lr'?"));
}

TEST_CASE("an empty section is allowed where keys are known below it, and nowhere else") {
  ConfigReader reader(Config::parse("ppo:\nother: {}\n", "x.yaml"));
  reader.get("ppo.lr", 0.0);
  CHECK(contains(refusal([&] { reader.finish(); }), "line 2: unknown key 'other'"));
}

TEST_CASE("wrong types and ranges name key, line, value and what was expected") {
  const auto read = [](const char* text, auto fallback) {
    ConfigReader reader(Config::parse(text, "x.yaml"));
    return refusal([&] { reader.get("a.b", fallback); });
  };
  CHECK(contains(read("a:\n  b: x", 1.0), "x.yaml, line 2: a.b is x, expected a number"));
  CHECK(contains(read("a: {b: 1.5}", 1), "a.b is 1.5, expected a whole number"));
  CHECK(contains(read("a: {b: 3000000000}", 1), "32 bits"));
  CHECK(contains(read("a: {b: 99999999999999999999}", std::int64_t{1}), "expected a whole number"));
  CHECK(contains(read("a: {b: -1}", std::uint64_t{1}), "expected a whole number >= 0"));
  CHECK(contains(read("a: {b: '1'}", 1), "expected a whole number"));
  CHECK(contains(read("a: {b: yes}", true), "a.b is yes, expected true or false"));
  CHECK(contains(read("a: {b: 1 2}", 1), "expected a whole number"));
  CHECK(contains(read("a: {b: nan}", 1.0), "expected a number"));
  CHECK(contains(read("a: {b: 1e999}", 1.0), "expected a number"));
  CHECK(contains(read("a: {b: }", 1), "a.b is null, expected"));
  CHECK(contains(read("a: {b: [1, x]}", std::vector<int>{}), "a.b is [1, x], expected a list, each a whole number"));
  CHECK(contains(read("a: {b: 1}", std::vector<int>{}), "expected a list"));
  CHECK(contains(read("a: {b: [1]}", 1), "a.b is [1], expected"));
  CHECK(read("a: {b: 0x10}", std::string()) == "");

  ConfigReader reader(Config::parse("a: {b: -1, m: f23}", "x.yaml"));
  const double b = reader.get("a.b", 0.0), c = reader.get("a.c", 5.0);
  CHECK(contains(refusal([&] { reader.section("a").require("b", b > 0, "must be > 0"); }), "x.yaml, line 1: a.b is -1, must be > 0"));
  CHECK(contains(refusal([&] { reader.require("a.c", c < 1, "must be < 1"); }), "default: a.c is 5, must be < 1"));
  reader.require("a.b", true, "");
  const std::string choice = refusal([&] { reader.choice("a.m", "f32", {"f32", "bf16"}); });
  CHECK(contains(choice, "a.m is 'f23', expected one of f32, bf16"));
  CHECK(contains(choice, "did you mean 'f32'?"));
  CHECK(contains(refusal([&] { reader.required<int>("a.z"); }), "x.yaml: no 'a.z'"));
}

TEST_CASE("the resolved configuration loads to the same values, to the last digit") {
  const std::vector<double> doubles = {
      0.1, 1.0 / 3, 1e-300, 5e-324, 1.7976931348623157e308, -0.0, 3.0, 1e22, std::numeric_limits<double>::infinity()};
  const std::vector<std::string> strings = {"last 4",
                                            "",
                                            "true",
                                            "null",
                                            "3",
                                            "1e5",
                                            "a: b",
                                            "# no comment",
                                            " lead",
                                            "tail ",
                                            "quo\"te\\",
                                            "tab\tline\n",
                                            "\xC3\xA9t\xC3\xA9",
                                            "\xF0\x9F\x98\x80",
                                            "~",
                                            "-",
                                            "- a",
                                            "[x]",
                                            "{x}",
                                            "*a",
                                            "&a",
                                            "!t",
                                            "%",
                                            "@",
                                            "no",
                                            "'",
                                            "a,b"};
  const auto read = [&](ConfigReader reader) {
    std::vector<std::string> result;
    const auto all = reader.get("x.doubles", doubles);
    REQUIRE(all.size() == doubles.size());
    for (std::size_t i = 0; i < all.size(); ++i) CHECK(std::memcmp(&all[i], &doubles[i], sizeof(double)) == 0);
    CHECK(reader.get("x.strings", strings) == strings);
    for (std::size_t i = 0; i < strings.size(); ++i) CHECK(reader.get("s." + std::to_string(i), strings[i]) == strings[i]);
    CHECK(reader.get("x.float", 0.1f) == 0.1f);
    CHECK(reader.get("top", std::int64_t{-9223372036854775807LL - 1}) == -9223372036854775807LL - 1);
    CHECK(reader.get("x.seed", ~std::uint64_t{0}) == ~std::uint64_t{0});
    CHECK(reader.get("x.none", std::optional<int>()) == std::nullopt);
    CHECK(reader.get("x.some", std::optional<int>(4)) == 4);
    CHECK(reader.get("x.empty", std::vector<int>{}).empty());
    CHECK(reader.get("x.yes", true));
    reader.finish();
    return reader.resolved_yaml();
  };
  const std::string first = read(ConfigReader(Config::parse("", "none")));
  const Config loaded = Config::parse(first, "resolved");
  CHECK(loaded.entries().size() == strings.size() + 9);
  CHECK(read(ConfigReader(loaded)) == first);
}

TEST_CASE("the resolved configuration nests its sections") {
  ConfigReader reader(Config::parse("b.c: 2", "x"));
  reader.get("a", 1);
  reader.get("b.c", 0);
  reader.get("d", "x");
  reader.get("b.e.f", 1.5);
  CHECK(reader.resolved_yaml() == "a: 1\nb:\n  c: 2\n  e:\n    f: 1.5\nd: x\n");
  CHECK_THROWS_AS(reader.get("b", 1), Error);
  CHECK_THROWS_AS(reader.get("a.x", 1), Error);
  CHECK_THROWS_AS(reader.get("a", 2), Error);
  CHECK(reader.get("a", 1) == 1);
}

TEST_CASE("differences of two configurations name the keys") {
  const Config before = Config::parse("a: 1\nb: {c: [1, 2], d: x}\ne: null\n", "old");
  CHECK(config_differences(before, Config::parse("e: \nb.d: x\nb.c: [1,2]\na: 1", "new")).empty());
  const auto found = config_differences(before, Config::parse("a: 2\nb: {c: [1, 3]}\ne: null\nf: y", "new"));
  CHECK(found == std::vector<std::string>{"a: 1 -> 2", "b.c: [1, 2] -> [1, 3]", "b.d: x -> (none)", "f: (none) -> y"});
}

TEST_CASE("text that is no configuration is refused by place, and never crashes") {
  const auto parse = [](const std::string& text) { return refusal([&] { Config::parse(text, "x.yaml"); }); };
  CHECK(contains(parse("a: 1\nb: [1, 2\nc: 3\n"), "x.yaml, line"));
  CHECK(contains(parse("a: 1\n\ta: 2\n"), "x.yaml, line 2"));
  CHECK(contains(parse("a: 1\nb: 2\na: 3\n"), "line 3: 'a' is given twice, first in x.yaml, line 1"));
  CHECK(contains(parse("a: {b: 1}\na.b: 3\n"), "line 2: 'a.b' is given twice"));
  CHECK(contains(parse("a: 1\na.b: 3\n"), "'a' is a value"));
  CHECK(contains(parse("a.b: 1\na: 3\n"), "'a' is a section"));
  CHECK(contains(parse("- 1\n- 2\n"), "not a list of 'key: value' lines"));
  CHECK(contains(parse("just text"), "'key: value'"));
  CHECK(contains(parse("a: [[1]]"), "list of something else"));
  CHECK(contains(parse("[a]: 1"), "key is not a name"));
  CHECK(contains(parse("a b: 1"), "key is not a name"));
  CHECK(contains(parse("a: 1\n---\nb: 2\n"), "more than one YAML document"));
  CHECK(contains(parse("a: *nothing"), "x.yaml, line 1"));
  CHECK(contains(parse(std::string(100000, '[')), "x.yaml"));
  CHECK(contains(parse("a: &a\n  b: *a\n"), "x.yaml"));
  std::string bomb = "a0: &a0 {x: 1, y: 2, z: 3, w: 4}\n";
  for (int i = 1; i < 12; ++i) bomb += fmt::format("a{0}: &a{0} {{x: *a{1}, y: *a{1}, z: *a{1}, w: *a{1}}}\n", i, i - 1);
  CHECK(contains(parse(bomb), "more than 10000 values"));
  for (int c = 0; c < 256; ++c) parse(std::string("a: ") + static_cast<char>(c) + "\n" + static_cast<char>(c) + ": 1");
  const TemporaryFolder folder;
  CHECK(contains(refusal([&] { Config::load(folder.path()); }), "is a folder"));
  CHECK(contains(refusal([&] { Config::load(folder / "none.yaml"); }), "cannot read configuration"));
  std::ofstream(folder / "c.yaml") << "a: 1\n";
  CHECK(Config::load(folder / "c.yaml").find("a")->origin == (folder / "c.yaml").string() + ", line 1");
}
