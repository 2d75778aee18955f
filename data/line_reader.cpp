#include "data/line_reader.h"

#include <fmt/format.h>
#include <zlib.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "base/error.h"

namespace expctr {

ByteSource open_bytes(const std::filesystem::path& path) {
  const std::string name = path.string();
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) throw InputError(fmt::format("{} is a directory", name), "name a file");
  errno = 0;
  gzFile raw = gzopen(name.c_str(), "rb");
  if (raw == nullptr)
    throw InputError(fmt::format("{}: cannot open: {}", name, errno != 0 ? std::strerror(errno) : "out of memory"),
                     "check the path and its permissions");
  const std::shared_ptr<gzFile_s> file(raw, [](gzFile handle) { gzclose_r(handle); });
  gzbuffer(raw, 1 << 17);
  auto unpacked = std::make_shared<std::int64_t>(0);
  return [file, name, unpacked](char* buffer, std::size_t size) -> std::size_t {
    const int got = gzread(file.get(), buffer, static_cast<unsigned>(std::min<std::size_t>(size, 1u << 30)));
    if (got > 0) *unpacked += got;
    int code = Z_OK;
    const char* message = gzerror(file.get(), &code);
    // A cut gzip stream reads as a short count and Z_BUF_ERROR, a wrong checksum as Z_DATA_ERROR.
    if (got < 0 || code < 0)
      throw InputError(fmt::format("{}: {} after {} unpacked bytes", name,
                                   code == Z_BUF_ERROR ? "unexpected end of the gzip stream"
                                   : code == Z_ERRNO   ? std::strerror(errno)
                                                       : message,
                                   *unpacked),
                       "the file is damaged or was cut; get it again");
    return static_cast<std::size_t>(got);
  };
}

std::optional<std::size_t> first_invalid_utf8(std::string_view text) {
  std::size_t i = 0;
  const std::size_t n = text.size();
  const auto byte = [&](std::size_t k) { return static_cast<unsigned char>(text[k]); };
  const auto continues = [&](std::size_t k) { return k < n && (byte(k) & 0xC0u) == 0x80u; };
  while (i < n) {
    const unsigned char lead = byte(i);
    std::size_t extra;
    if (lead < 0x80) {
      ++i;
      continue;
    } else if (lead >= 0xC2 && lead <= 0xDF) {
      extra = 1;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
      extra = 2;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
      extra = 3;
    } else {
      return i;
    }
    for (std::size_t k = 1; k <= extra; ++k)
      if (!continues(i + k)) return i;
    const unsigned char second = byte(i + 1);
    if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) || (lead == 0xF0 && second < 0x90) ||
        (lead == 0xF4 && second > 0x8F))
      return i;
    i += extra + 1;
  }
  return std::nullopt;
}

std::string latin1_to_utf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80) {
      result.push_back(c);
    } else {
      result.push_back(static_cast<char>(0xC0u | (byte >> 6)));
      result.push_back(static_cast<char>(0x80u | (byte & 0x3Fu)));
    }
  }
  return result;
}

LineReader::LineReader(std::string name, ByteSource source, std::size_t max_line)
    : name_(std::move(name)), source_(std::move(source)), max_line_(max_line) {
  while (block_.size() < 3 && refill()) {
  }
  const std::string_view head(block_);
  if (head.starts_with("\xFF\xFE") || head.starts_with("\xFE\xFF"))
    throw InputError(fmt::format("{}: the file is UTF-16", name_), "convert it to UTF-8");
  if (head.starts_with("\xEF\xBB\xBF")) begin_ = 3;
}

bool LineReader::refill() {
  if (ended_) return false;
  constexpr std::size_t chunk = std::size_t{1} << 16;
  const std::size_t before = block_.size();
  block_.resize(before + chunk);
  const std::size_t got = source_(block_.data() + before, chunk);
  block_.resize(before + got);
  ended_ = got == 0;
  return !ended_;
}

bool LineReader::next(Line& line) {
  std::size_t searched = begin_;
  while (true) {
    const std::size_t end = block_.find('\n', searched);
    const bool found = end != std::string::npos;
    const std::size_t length = (found ? end : block_.size()) - begin_;
    if (length > max_line_)
      throw InputError(fmt::format("{}, line {}: longer than {} bytes", name_, line_ + 1, max_line_), "is this a text file of lines?");
    if (found || ended_) {
      if (!found && length == 0) return false;
      line.text = std::string_view(block_).substr(begin_, length);
      if (!line.text.empty() && line.text.back() == '\r') line.text.remove_suffix(1);
      line.number = ++line_;
      line.offset = block_offset_ + static_cast<std::int64_t>(begin_);
      begin_ += length + (found ? 1 : 0);
      return true;
    }
    // Keep only the unfinished line, so memory is bounded by one line and one block.
    block_.erase(0, begin_);
    block_offset_ += static_cast<std::int64_t>(begin_);
    begin_ = 0;
    searched = block_.size();
    refill();
  }
}

}  // namespace expctr
