// Runs pip to download one wheel.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

namespace expctr {

struct PipRequest {
  std::string python = "python3";
  std::string requirement;        ///< name==version
  std::filesystem::path target;   ///< folder that receives the wheel; also pip's temporary folder
  std::function<void()> waiting;  ///< called a few times a second while pip runs
};

/// `python -m pip download --no-deps --only-binary=:all: REQUIREMENT -d target`, without a shell. Returns the wheel.
/// Errors (Error, ResourceError) say why, with pip's last lines and what to do: no python, no pip, no network, no such package, disk full.
std::filesystem::path pip_download(const PipRequest& request);

}  // namespace expctr
