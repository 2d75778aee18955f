#include "tests/support/paths.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iterator>

#include "base/error.h"

namespace expctr {
namespace fs = std::filesystem;

namespace {

std::atomic<bool> skip_mark{false};

std::optional<fs::path> environment_path(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return fs::path(value);
}

std::optional<fs::path> find_below(const fs::path& root, const fs::path& name, int levels) {
  std::error_code error;
  if (fs::exists(root / name, error)) return root / name;
  if (levels == 0) return std::nullopt;
  std::vector<fs::path> folders;
  for (fs::directory_iterator entry(root, error), end; !error && entry != end; entry.increment(error)) {
    if (entry->is_directory(error)) folders.push_back(entry->path());
  }
  std::sort(folders.begin(), folders.end());
  for (const fs::path& folder : folders) {
    if (auto found = find_below(folder, name, levels - 1)) return found;
  }
  return std::nullopt;
}

}  // namespace

fs::path source_root() {
  for (fs::path folder = fs::current_path();; folder = folder.parent_path()) {
    if (fs::exists(folder / "base" / "error.h")) return folder;
    if (folder == folder.root_path())
      throw Error("no source tree at or above the working directory", "run the tests inside the source tree");
  }
}

fs::path oracle_root() {
  if (auto set = environment_path("EXPCTR_ORACLES")) return *set;
  return source_root() / "tests" / "oracles";
}

std::optional<std::filesystem::path> stories_folder() {
  for (const std::filesystem::path& root : {oracle_root(), source_root() / ".." / "shared" / "oracles"}) {
    if (std::filesystem::exists(root / "llm" / "stories260k")) return root / "llm" / "stories260k";
  }
  return std::nullopt;
}

std::optional<fs::path> data_root() {
  auto set = environment_path("EXPCTR_DATA");
  if (set && fs::is_directory(*set)) return set;
  return std::nullopt;
}

std::optional<fs::path> find_model(std::string_view relative_path) {
  std::vector<fs::path> roots;
  if (auto set = environment_path("EXPCTR_MODELS")) roots.push_back(*set);
  if (auto cache = environment_path("XDG_CACHE_HOME")) {
    roots.push_back(*cache / "expctr");
  } else if (auto home = environment_path("HOME")) {
    roots.push_back(*home / ".cache" / "expctr");
  }
  const fs::path relative(relative_path);
  for (const fs::path& root : roots) {
    if (fs::exists(root / relative)) return root / relative;
    if (auto found = find_below(root, relative.filename(), 2)) return found;
  }
  return std::nullopt;
}

void skip_test(std::string_view reason) {
  std::printf("SKIP %.*s\n", static_cast<int>(reason.size()), reason.data());
  std::fflush(stdout);
  skip_mark = true;
}

bool take_skip_mark() { return skip_mark.exchange(false); }

TemporaryFolder::TemporaryFolder() {
  std::string name = (fs::temp_directory_path() / "expctr_test_XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) throw Error("cannot make a temporary folder " + name);
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error("cannot read " + path.string());
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace expctr
