#include "data/zip_file.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <limits>

#include "base/error.h"

namespace expctr {
namespace {

constexpr std::uint64_t end_record = 22, directory_record = 46, local_record = 30;

class Inflater {
 public:
  Inflater() { ready_ = inflateInit2(&stream, -MAX_WBITS) == Z_OK; }  // raw deflate: zip has its own headers
  ~Inflater() {
    if (ready_) inflateEnd(&stream);
  }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;
  bool ready() const { return ready_; }
  z_stream stream{};

 private:
  bool ready_ = false;
};

}  // namespace

void ZipFile::damaged(const std::string& fault) const {
  throw InputError(fmt::format("{}: {}", file_.path().string(), fault), "the archive is damaged or was cut; fetch it again");
}

std::uint64_t ZipFile::number(std::uint64_t offset, int bytes, const char* what) const {
  const auto data = file_.bytes();
  if (offset > data.size() || data.size() - offset < static_cast<std::uint64_t>(bytes))
    damaged(fmt::format("the archive ends inside its {}", what));
  std::uint64_t value = 0;
  for (int i = bytes; i-- > 0;) value = (value << 8) | static_cast<std::uint64_t>(data[offset + static_cast<std::uint64_t>(i)]);
  return value;
}

ZipFile::ZipFile(const std::filesystem::path& path) : file_(path) {
  const std::uint64_t size = file_.bytes().size();
  if (size < end_record) damaged("too short for a zip archive");
  // The end record stands last, before a comment of at most 65,535 bytes.
  std::uint64_t end = size - end_record;
  const std::uint64_t lowest = end > 65535 ? end - 65535 : 0;
  while (number(end, 4, "end record") != 0x06054b50) {
    if (end == lowest) damaged("not a zip archive: no end record");
    --end;
  }
  const std::uint64_t count = number(end + 10, 2, "end record"), directory_bytes = number(end + 12, 4, "end record");
  std::uint64_t at = number(end + 16, 4, "end record");
  if (number(end + 4, 2, "end record") != 0 || number(end + 8, 2, "end record") != count) damaged("an archive of several volumes");
  if (count == 0xFFFF || at == 0xFFFFFFFF) damaged("a zip64 archive, which is not read here");
  if (at > end || directory_bytes > end - at) damaged("the directory lies outside the file");
  const std::uint64_t directory_end = at + directory_bytes;
  for (std::uint64_t entry = 0; entry < count; ++entry) {
    if (number(at, 4, "directory") != 0x02014b50) damaged(fmt::format("directory entry {} has no signature", entry));
    ZipMember member;
    if ((number(at + 8, 2, "directory") & 1) != 0) damaged(fmt::format("directory entry {} is encrypted", entry));
    member.method = static_cast<int>(number(at + 10, 2, "directory"));
    member.crc = static_cast<std::uint32_t>(number(at + 16, 4, "directory"));
    member.packed_bytes = number(at + 20, 4, "directory");
    member.bytes = number(at + 24, 4, "directory");
    const std::uint64_t name_bytes = number(at + 28, 2, "directory");
    const std::uint64_t rest = number(at + 30, 2, "directory") + number(at + 32, 2, "directory");
    member.header_offset = number(at + 42, 4, "directory");
    const std::uint64_t next = at + directory_record + name_bytes + rest;
    if (next > directory_end) damaged(fmt::format("directory entry {} reaches beyond the directory", entry));
    const auto name = file_.bytes().subspan(at + directory_record, name_bytes);
    member.name.assign(reinterpret_cast<const char*>(name.data()), name.size());
    members_.push_back(std::move(member));
    at = next;
  }
}

const ZipMember& ZipFile::member(std::string_view name) const {
  for (const ZipMember& member : members_)
    if (member.name == name) return member;
  throw InputError(fmt::format("{}: no member '{}' among {}", file_.path().string(), name, members_.size()),
                   "is it the right package and version?");
}

void ZipFile::extract(const ZipMember& member, const std::function<void(std::span<const std::byte>)>& sink) const {
  const auto data = file_.bytes();
  const std::uint64_t at = member.header_offset;
  if (number(at, 4, "member header") != 0x04034b50) damaged(fmt::format("member '{}' has no header", member.name));
  const std::uint64_t begin = at + local_record + number(at + 26, 2, "member header") + number(at + 28, 2, "member header");
  if (begin > data.size() || member.packed_bytes > data.size() - begin)
    damaged(fmt::format("member '{}' reaches beyond the file", member.name));
  const auto packed = data.subspan(begin, member.packed_bytes);
  std::uint64_t written = 0;
  uLong crc = crc32(0, nullptr, 0);
  std::array<std::byte, 1 << 16> buffer;
  const auto hand_over = [&](std::span<const std::byte> bytes) {
    if (bytes.size() > member.bytes - written)
      damaged(fmt::format("member '{}' unpacks to more than its {} bytes", member.name, member.bytes));
    written += bytes.size();
    crc = crc32(crc, reinterpret_cast<const Bytef*>(bytes.data()), static_cast<uInt>(bytes.size()));
    sink(bytes);
  };
  if (member.method == 0) {
    for (std::size_t i = 0; i < packed.size(); i += buffer.size()) hand_over(packed.subspan(i, std::min(buffer.size(), packed.size() - i)));
  } else if (member.method == 8) {
    Inflater inflater;
    if (!inflater.ready()) throw ResourceError("zlib cannot start", "is there memory left?");
    z_stream& stream = inflater.stream;
    std::size_t given = 0;
    int status = Z_OK;
    while (status != Z_STREAM_END) {
      if (stream.avail_in == 0) {
        const std::size_t piece = std::min<std::size_t>(packed.size() - given, std::numeric_limits<uInt>::max() / 2);
        stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(packed.data() + given));  // zlib reads only
        stream.avail_in = static_cast<uInt>(piece);
        given += piece;
      }
      stream.next_out = reinterpret_cast<Bytef*>(buffer.data());
      stream.avail_out = static_cast<uInt>(buffer.size());
      status = inflate(&stream, Z_NO_FLUSH);
      if (status != Z_OK && status != Z_STREAM_END) damaged(fmt::format("member '{}' is not valid deflate data", member.name));
      hand_over(std::span(buffer).first(buffer.size() - stream.avail_out));
    }
  } else {
    damaged(fmt::format("member '{}' uses compression method {}, which is not read here", member.name, member.method));
  }
  if (written != member.bytes) damaged(fmt::format("member '{}' has {} bytes, its entry says {}", member.name, written, member.bytes));
  if (crc != member.crc) damaged(fmt::format("member '{}' has the wrong CRC-32", member.name));
}

}  // namespace expctr
