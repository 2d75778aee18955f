// Configuration of click models: the shipped file states the defaults, wrong values are refused.
#include "engine/config/config.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "tests/support/paths.h"
#include "trainers/ctr/config.h"

using namespace expctr;

namespace {

std::set<std::string> resolved(const Config& config) {
  ConfigReader reader(config);
  reader.choice("system", "ctr", {"ctr"});
  reader.get("seed", std::uint64_t{2024});
  reader.get("device", "cpu");
  read_ctr_data_config(reader.section("data"));
  read_ctr_config(reader);
  reader.finish();
  std::set<std::string> lines;
  const Config again = Config::parse(reader.resolved_yaml(), "resolved");
  for (const Config::Entry& entry : again.entries()) lines.insert(entry.key + " = " + entry.value.text());
  return lines;
}

}  // namespace

TEST_CASE("configs/ctr/ml100k.yaml states every key with its default") {
  const Config shipped = Config::load(source_root() / "configs" / "ctr" / "ml100k.yaml");
  const auto defaults = resolved(Config::parse("system: ctr\n", "defaults"));
  CHECK(resolved(shipped) == defaults);
  CHECK(shipped.entries().size() == defaults.size());
}

TEST_CASE("wrong values of the click model's configuration are refused") {
  for (const char* wrong : {"ctr.model=dinn", "ctr.dropout=1", "ctr.batch=0", "ctr.attention=[]", "ctr.mlp=[200, -1]", "ctr.lr=0",
                            "ctr.epoch=3", "adapter=[]", "data.history.max=0", "data.split.test=0.95", "ctr.conventions=recbole"}) {
    INFO(wrong);
    Config config = Config::parse("system: ctr\n", "test");
    config.set(wrong);
    CHECK_THROWS_AS(resolved(config), UsageError);
  }
}
