// Members of a zip archive (a Python wheel is one), stored or deflated. Trusts nothing: every offset, size and name is checked.
// Source: PKWARE APPNOTE 6.3, sections 4.3.7, 4.3.12, 4.3.16; RFC 1951.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/io/mapped_file.h"

namespace expctr {

struct ZipMember {
  std::string name;
  int method = 0;  ///< 0 stored, 8 deflated
  std::uint32_t crc = 0;
  std::uint64_t packed_bytes = 0, bytes = 0, header_offset = 0;
};

class ZipFile {
 public:
  /// Errors (InputError): no archive, a cut one, zip64, several volumes, entries that lie outside the file.
  explicit ZipFile(const std::filesystem::path& path);
  const std::vector<ZipMember>& members() const { return members_; }
  /// Errors (InputError): no such member.
  const ZipMember& member(std::string_view name) const;
  /// Hands the unpacked bytes to `sink` in pieces. Errors (InputError): encrypted, another method, damaged data, a wrong CRC-32, more or
  /// fewer bytes than the directory says (unpacking stops there, so a bomb costs nothing).
  void extract(const ZipMember& member, const std::function<void(std::span<const std::byte>)>& sink) const;

 private:
  std::uint64_t number(std::uint64_t offset, int bytes, const char* what) const;
  [[noreturn]] void damaged(const std::string& fault) const;

  MappedFile file_;
  std::vector<ZipMember> members_;
};

}  // namespace expctr
