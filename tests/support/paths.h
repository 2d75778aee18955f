// Where tests find what is not in the source tree's code, and how they say that it is not there.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace expctr {

/// Root of the source tree: the nearest folder at or above the working directory that holds base/error.h. Throws Error when there is none.
std::filesystem::path source_root();

/// Reference values: $EXPCTR_ORACLES when set, else tests/oracles of the source tree. The folder may be missing: then tests fail.
std::filesystem::path oracle_root();

/// The reference case of stories260K, whose weights are somebody else's and not in the source tree: among the reference values, or in
/// ../shared/oracles beside the tree. nullopt: a test skips by name.
std::optional<std::filesystem::path> stories_folder();

/// $EXPCTR_DATA when it names a folder.
std::optional<std::filesystem::path> data_root();

/// A model file or folder, e.g. find_model("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"). Looks in $EXPCTR_MODELS, then in
/// $XDG_CACHE_HOME/expctr or
/// ~/.cache/expctr; in each at the given relative path, then for the bare name at most two folders deep.
std::optional<std::filesystem::path> find_model(std::string_view relative_path);

/// Prints "SKIP <reason>" and counts the running test case as skipped (unless it fails). Use: `return skip_test("model smollm2");`
void skip_test(std::string_view reason);

/// True once skip_test was called since the last call of this function. For the test program's own counting.
bool take_skip_mark();

/// A fresh empty folder, removed with everything in it at the end of its life.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::filesystem::path& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// Whole content of a file; throws Error when it cannot be read.
std::string read_text(const std::filesystem::path& path);

}  // namespace expctr
