// Every write of the project: atomic replacement of whole files, append-only record files, and the system calls under both.
//
// Errors are of one kind everywhere: a full or broken disk is a ResourceError (exit code 4); a path that cannot be written as asked (a
// folder where a file is wanted, a file where a folder is wanted, no permission) is a UsageError (exit code 2).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

namespace expctr {

std::span<const std::byte> as_bytes(std::string_view text);

/// Throws the error that fits `error_number` (an errno): "cannot <what> '<path>': <reason>".
[[noreturn]] void throw_file_error(int error_number, std::string_view what, const std::filesystem::path& path);

/// A file open for writing. Not copyable; closes itself. All calls throw as the head of this file says, and are seen by FaultPlan.
class OutputFile {
 public:
  /// Creates `path` or empties it.
  static OutputFile create(const std::filesystem::path& path);
  /// Opens `path` for appending; creates it when missing.
  static OutputFile append_to(const std::filesystem::path& path);

  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&& other) noexcept;
  ~OutputFile();

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(as_bytes(text)); }
  /// Waits until the bytes are on the disk.
  void sync();
  void truncate(std::uint64_t size);
  std::uint64_t size() const { return size_; }
  void close();
  const std::filesystem::path& path() const { return path_; }

 private:
  OutputFile(const std::filesystem::path& path, int flags);
  std::filesystem::path path_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
};

/// fsync of a folder: makes the names in it durable.
void sync_folder(const std::filesystem::path& folder);

/// rename(2); the target is replaced when it is a file. Not durable before sync_folder of the parent.
void rename_path(const std::filesystem::path& from, const std::filesystem::path& to);

/// Makes the folder and its parents. Throws UsageError when a file stands where a folder is needed.
void make_folders(const std::filesystem::path& folder);

/// Replaces `path` by `bytes` so that a crash at any moment leaves either the old file or the new one, whole: temporary name in the same
/// folder, write, fsync, rename, fsync of the folder. On an error the temporary file is removed and the old file stands.
void write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes);
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

/// Removes what processes that were killed inside write_file_atomically left: of the file `path`, or, when that is a folder, of every file in it and below. Only
/// while nobody else writes there.
void remove_unfinished_files(const std::filesystem::path& path);

/// An append-only file of records that end with a newline (JSON lines). One append is one write(2): records reach the file whole or, when
/// the process or the disk dies, torn at the end; opening cuts a torn end. An append that fails takes its bytes back, so that the file
/// stays whole.
class AppendFile {
 public:
  enum class Mode {
    fresh,   ///< start empty
    resume,  ///< keep what is there, cut to the last whole record
  };
  AppendFile(const std::filesystem::path& path, Mode mode);

  /// Appends `record` and a newline. `record` must not contain one (throws Error).
  void append(std::string_view record);
  void sync() { file_.sync(); }
  std::uint64_t size() const { return file_.size(); }
  /// Bytes that opening cut off because they were no whole record.
  std::uint64_t cut_bytes() const { return cut_bytes_; }
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  OutputFile file_;
  std::uint64_t cut_bytes_ = 0;
};

}  // namespace expctr
