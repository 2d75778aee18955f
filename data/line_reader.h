// Lines of a text file, read in blocks: one place that knows of line ends, byte-order marks, gzip and limits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace expctr {

enum class Encoding { utf8, latin1 };

/// Fills a buffer, returns the number of bytes; 0 at the end. Throws InputError when the source is damaged.
using ByteSource = std::function<std::size_t(char* buffer, std::size_t size)>;

/// Opens a file or pipe. Content decides, not the name: gzip (also several members) is unpacked, anything else passes through.
/// Errors: no such file, a directory, a gzip stream that ends early or whose checksum is wrong.
ByteSource open_bytes(const std::filesystem::path& path);

struct Line {
  std::string_view text;    ///< without its line end; valid until the next call
  std::int64_t number = 0;  ///< physical line, from 1
  std::int64_t offset = 0;  ///< of the first byte, in the unpacked file, from 0
};

/// Position of the first byte that does not belong to valid UTF-8 (overlong forms and surrogates included).
std::optional<std::size_t> first_invalid_utf8(std::string_view text);

std::string latin1_to_utf8(std::string_view text);

/// The next line: LF and CRLF end a line, the last one may lack its end, a UTF-8 byte-order mark is dropped.
/// How the source cuts its blocks changes nothing. Errors: UTF-16, a line longer than `max_line` bytes.
class LineReader {
 public:
  static constexpr std::size_t default_max_line = std::size_t{16} << 20;

  LineReader(std::string name, ByteSource source, std::size_t max_line = default_max_line);
  bool next(Line& line);
  const std::string& name() const { return name_; }
  bool saw_bytes() const { return block_offset_ + static_cast<std::int64_t>(block_.size()) > 0; }

 private:
  bool refill();

  std::string name_;
  ByteSource source_;
  std::size_t max_line_;
  std::string block_;              // bytes read and not yet dropped
  std::size_t begin_ = 0;          // start of the next line within block_
  std::int64_t block_offset_ = 0;  // of block_[0] in the file
  std::int64_t line_ = 0;
  bool ended_ = false;
};

}  // namespace expctr
