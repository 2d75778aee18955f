// A file that lives in memory: tests that write thousands of versions of one file do not wait for a disk.
#pragma once

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <string_view>

#include "base/error.h"

namespace expctr {

class MemoryFile {
 public:
  MemoryFile() : descriptor_(memfd_create("test", MFD_CLOEXEC)) {
    if (descriptor_ < 0) throw ResourceError("memfd_create failed");
  }
  ~MemoryFile() { close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  /// The path under which this process can open the file, now holding `bytes`.
  std::filesystem::path hold(std::string_view bytes) const {
    if (ftruncate(descriptor_, static_cast<off_t>(bytes.size())) != 0 ||
        pwrite(descriptor_, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
      throw ResourceError("writing a file in memory failed");
    return fmt::format("/proc/self/fd/{}", descriptor_);
  }

 private:
  int descriptor_;
};

}  // namespace expctr
