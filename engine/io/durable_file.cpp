#include "engine/io/durable_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <system_error>

#include "base/error.h"
#include "engine/io/fault.h"

namespace expctr {
namespace fs = std::filesystem;

namespace {

/// Between a file's name and the process that is writing it.
constexpr std::string_view unfinished_mark = ".tmp-";

/// 0, or the errno that a test wants. Dies when the test wants that.
int injected(FileOperation operation) {
  const FaultVerdict verdict = FaultGate::ask(operation);
  if (verdict.kill) ::kill(::getpid(), SIGKILL);
  return verdict.error;
}

/// Writes all bytes; returns an errno or 0. `written` counts what reached the file.
int write_all(int descriptor, std::span<const std::byte> bytes, std::uint64_t& written) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(descriptor, bytes.data(), bytes.size());
    if (count < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    written += static_cast<std::uint64_t>(count);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
  return 0;
}

/// Length of the part of the file that ends with a newline.
std::uint64_t whole_records(int descriptor, std::uint64_t size) {
  std::array<char, 4096> block;
  while (size > 0) {
    const std::size_t count = static_cast<std::size_t>(std::min<std::uint64_t>(size, block.size()));
    const ssize_t got = ::pread(descriptor, block.data(), count, static_cast<off_t>(size - count));
    if (got != static_cast<ssize_t>(count)) return size;
    for (std::size_t i = count; i > 0; --i) {
      if (block[i - 1] == '\n') return size - count + i;
    }
    size -= count;
  }
  return 0;
}

}  // namespace

std::span<const std::byte> as_bytes(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

void throw_file_error(int error_number, std::string_view what, const fs::path& path) {
  const std::string message =
      fmt::format("cannot {} '{}': {}", what, path.string(), std::error_code(error_number, std::generic_category()).message());
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
      throw ResourceError(message, "free some space or choose another folder, then run the same command again; it continues");
    case EIO:
      throw ResourceError(message, "the disk reports a fault; choose a folder on another disk");
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case EFBIG:
      throw ResourceError(message, "the system's limits are reached (see ulimit -a)");
    case EISDIR:
      throw UsageError(message, "name a file, not a folder");
    case ENOTDIR:
    case EEXIST:
      throw UsageError(message, "a file stands where a folder is needed; choose another path or move the file away");
    case ENOENT:
      throw UsageError(message, "the folder does not exist; create it or choose another path");
    case EACCES:
    case EPERM:
    case EROFS:
      throw UsageError(message, "choose a path that you may write");
    default:
      throw Error(message);
  }
}

OutputFile::OutputFile(const fs::path& path, int flags) : path_(path) {
  descriptor_ = ::open(path.c_str(), flags | O_CLOEXEC | O_CREAT, 0644);
  if (descriptor_ < 0) throw_file_error(errno, "write", path);
  struct stat status;
  if (::fstat(descriptor_, &status) != 0) {
    const int error = errno;
    ::close(descriptor_);
    throw_file_error(error, "write", path);
  }
  size_ = static_cast<std::uint64_t>(status.st_size);
}

OutputFile OutputFile::create(const fs::path& path) { return OutputFile(path, O_WRONLY | O_TRUNC); }
OutputFile OutputFile::append_to(const fs::path& path) { return OutputFile(path, O_RDWR | O_APPEND); }

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)), size_(other.size_) {}

OutputFile& OutputFile::operator=(OutputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(size_, other.size_);
  return *this;
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void OutputFile::write(std::span<const std::byte> bytes) {
  const FaultVerdict verdict = FaultGate::ask(FileOperation::write);
  const bool torn = verdict.kill || verdict.error != 0;
  const int error = write_all(descriptor_, torn ? bytes.first(bytes.size() / 2) : bytes, size_);
  if (verdict.kill) ::kill(::getpid(), SIGKILL);
  if (error != 0 || verdict.error != 0) throw_file_error(verdict.error != 0 ? verdict.error : error, "write", path_);
}

void OutputFile::sync() {
  if (const int error = injected(FileOperation::fsync)) throw_file_error(error, "flush", path_);
  if (::fsync(descriptor_) != 0) throw_file_error(errno, "flush", path_);
}

void OutputFile::truncate(std::uint64_t size) {
  if (::ftruncate(descriptor_, static_cast<off_t>(size)) != 0) throw_file_error(errno, "shorten", path_);
  size_ = size;
}

void OutputFile::close() {
  // Some file systems report a full disk only here.
  if (descriptor_ >= 0 && ::close(std::exchange(descriptor_, -1)) != 0) throw_file_error(errno, "close", path_);
}

void sync_folder(const fs::path& folder) {
  const fs::path path = folder.empty() ? fs::path(".") : folder;
  if (const int error = injected(FileOperation::fsync)) throw_file_error(error, "flush", path);
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) throw_file_error(errno, "flush", path);
  const int status = ::fsync(descriptor), error = errno;
  ::close(descriptor);
  // EINVAL: a file system that has nothing to flush for a folder.
  if (status != 0 && error != EINVAL) throw_file_error(error, "flush", path);
}

void rename_path(const fs::path& from, const fs::path& to) {
  if (const int error = injected(FileOperation::rename)) throw_file_error(error, "write", to);
  if (::rename(from.c_str(), to.c_str()) != 0) throw_file_error(errno, "write", to);
}

void make_folders(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw_file_error(error.value(), "create folder", folder);
  if (!fs::is_directory(folder)) throw_file_error(ENOTDIR, "create folder", folder);
}

void write_file_atomically(const fs::path& path, std::span<const std::byte> bytes) {
  if (fs::is_directory(path)) throw_file_error(EISDIR, "write", path);
  // The process id keeps two writers of one path from tearing each other's temporary file.
  fs::path temporary = path;
  temporary += fmt::format("{}{}", unfinished_mark, ::getpid());
  try {
    OutputFile file = OutputFile::create(temporary);
    file.write(bytes);
    file.sync();
    file.close();
    rename_path(temporary, path);
  } catch (...) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw;
  }
  sync_folder(path.parent_path());
}

void write_file_atomically(const fs::path& path, std::string_view text) { write_file_atomically(path, as_bytes(text)); }

void remove_unfinished_files(const fs::path& path) {
  const bool whole_folder = fs::is_directory(path);
  std::vector<fs::path> found;
  const auto look_at = [&](const fs::path& file) {
    const std::string name = file.filename().string();
    const std::size_t mark = name.rfind(unfinished_mark);
    if (mark == std::string::npos || mark == 0 || (!whole_folder && name.substr(0, mark) != path.filename().string())) return;
    const std::string process = name.substr(mark + unfinished_mark.size());
    if (!process.empty() && process.find_first_not_of("0123456789") == std::string::npos) found.push_back(file);
  };
  std::error_code error;
  if (whole_folder) {
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(path, error)) look_at(entry.path());
  } else {
    for (const fs::directory_entry& entry : fs::directory_iterator(path.parent_path(), error)) look_at(entry.path());
  }
  for (const fs::path& file : found) {
    if (!error) fs::remove(file, error);
    if (error) throw_file_error(error.value(), "remove", file);
  }
}

AppendFile::AppendFile(const fs::path& path, Mode mode) : file_(OutputFile::append_to(path)) {
  if (mode == Mode::fresh) {
    file_.truncate(0);
    return;
  }
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw_file_error(errno, "read", path);
  const std::uint64_t whole = whole_records(descriptor, file_.size());
  ::close(descriptor);
  cut_bytes_ = file_.size() - whole;
  if (cut_bytes_ > 0) file_.truncate(whole);
}

void AppendFile::append(std::string_view record) {
  if (record.find('\n') != std::string_view::npos) {
    throw Error(fmt::format("a record for '{}' contains a newline", path().string()), "one record is one line");
  }
  std::string line(record);
  line += '\n';
  const std::uint64_t before = file_.size();
  try {
    file_.write(line);
  } catch (...) {
    file_.truncate(before);
    throw;
  }
}

}  // namespace expctr
