#include "engine/io/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace expctr {
namespace {

struct Descriptor {
  int number = -1;
  ~Descriptor() {
    if (number >= 0) ::close(number);
  }
};

[[noreturn]] void refuse(const std::filesystem::path& path, int error) {
  throw InputError(fmt::format("{}: cannot be read: {}", path.string(), std::strerror(error)),
                   error == ENOENT ? "check the path; `expctr_engine data fetch` downloads the models and data sets that have a package"
                                   : "give a file that this user may read");
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.number < 0) refuse(path, errno);
  struct stat status {};
  if (::fstat(file.number, &status) != 0) refuse(path, errno);
  if (S_ISDIR(status.st_mode)) throw InputError(fmt::format("{}: is a folder", path.string()), "give the path of a file");
  if (!S_ISREG(status.st_mode)) throw InputError(fmt::format("{}: is not a regular file", path.string()), "copy it to a file first");
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) return;
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.number, 0);
  if (address == MAP_FAILED) refuse(path, errno);
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace expctr
