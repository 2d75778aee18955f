#include "tests/support/paths.h"

#include <doctest/doctest.h>

#include <cstdlib>

using namespace expctr;
namespace fs = std::filesystem;

namespace {

/// Sets an environment variable for the life of the object; none unsets it.
class Variable {
 public:
  Variable(const char* name, const std::optional<std::string>& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    set(value);
  }
  ~Variable() { set(before_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  void set(const std::optional<std::string>& value) { value ? ::setenv(name_, value->c_str(), 1) : ::unsetenv(name_); }
  const char* name_;
  std::optional<std::string> before_;
};

void touch(const fs::path& path) {
  fs::create_directories(path.parent_path());
  std::ofstream(path) << "x";
}

}  // namespace

TEST_CASE("models are looked up at their path, then by name, first in EXPCTR_MODELS, then in the cache") {
  const TemporaryFolder folder;
  const Variable models("EXPCTR_MODELS", (folder / "models").string());
  const Variable cache("XDG_CACHE_HOME", (folder / "cache").string());
  CHECK_FALSE(find_model("smollm2/m.gguf"));
  touch(folder / "cache" / "expctr" / "a" / "b" / "m.gguf");
  CHECK(find_model("smollm2/m.gguf") == folder / "cache" / "expctr" / "a" / "b" / "m.gguf");
  touch(folder / "models" / "a" / "b" / "c" / "m.gguf");  // three folders deep: too deep
  CHECK(find_model("smollm2/m.gguf") == folder / "cache" / "expctr" / "a" / "b" / "m.gguf");
  touch(folder / "models" / "m.gguf");
  CHECK(find_model("smollm2/m.gguf") == folder / "models" / "m.gguf");
  touch(folder / "models" / "smollm2" / "m.gguf");
  CHECK(find_model("smollm2/m.gguf") == folder / "models" / "smollm2" / "m.gguf");
  CHECK(find_model("smollm2") == folder / "models" / "smollm2");
  const Variable no_cache("XDG_CACHE_HOME", std::nullopt);
  const Variable home("HOME", (folder / "home").string());
  touch(folder / "home" / ".cache" / "expctr" / "minilm" / "model.safetensors");
  CHECK(find_model("minilm/model.safetensors") == folder / "home" / ".cache" / "expctr" / "minilm" / "model.safetensors");
}

TEST_CASE("oracles and data are looked up in the environment") {
  const TemporaryFolder folder;
  {
    const Variable oracles("EXPCTR_ORACLES", folder.path().string());
    const Variable data("EXPCTR_DATA", folder.path().string());
    CHECK(oracle_root() == folder.path());
    CHECK(data_root() == folder.path());
  }
  const Variable oracles("EXPCTR_ORACLES", std::nullopt);
  const Variable data("EXPCTR_DATA", (folder / "none").string());
  CHECK(oracle_root() == source_root() / "tests" / "oracles");
  CHECK_FALSE(data_root());
  CHECK(fs::exists(source_root() / "base" / "error.h"));
}
