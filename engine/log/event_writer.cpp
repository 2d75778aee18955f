#include "engine/log/event_writer.h"

#include <unistd.h>

#include <chrono>

namespace expctr {

namespace {

constexpr std::array<std::uint32_t, 256> make_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? 0x82F63B78u : 0u);
    table[i] = crc;
  }
  return table;
}
constexpr std::array<std::uint32_t, 256> crc_table = make_table();

template <class T>
void put_raw(std::string& out, T value) {
  std::array<char, sizeof(T)> bytes;
  std::memcpy(bytes.data(), &value, sizeof(T));  // x86 is little-endian, as the format is
  out.append(bytes.data(), bytes.size());
}

void put_varint(std::string& out, std::uint64_t value) {
  for (; value >= 128; value >>= 7) out += static_cast<char>((value & 127) | 128);
  out += static_cast<char>(value);
}

enum class Wire : std::uint64_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };
void put_key(std::string& out, std::uint64_t field, Wire wire) { put_varint(out, field << 3 | static_cast<std::uint64_t>(wire)); }

void put_bytes(std::string& out, std::uint64_t field, std::string_view bytes) {
  put_key(out, field, Wire::bytes);
  put_varint(out, bytes.size());
  out += bytes;
}

/// The beginning of every Event.
std::string event(std::int64_t step) {
  std::string out;
  put_key(out, 1, Wire::fixed64);
  put_raw(out, std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count());
  put_key(out, 2, Wire::varint);
  put_varint(out, static_cast<std::uint64_t>(step));
  return out;
}

std::filesystem::path new_event_file(const std::filesystem::path& folder) {
  make_folders(folder);
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) host[0] = '\0';
  const auto now = std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  // TensorBoard reads the files of a folder in the order of their names; two of one second are told apart by the counter.
  for (int i = 0;; ++i) {
    std::filesystem::path path =
        folder / fmt::format("events.out.tfevents.{:010}.{}.{}.{}", now, host[0] ? host.data() : "host", ::getpid(), i);
    if (!std::filesystem::exists(path)) return path;
  }
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t crc = ~0u;
  for (const char c : bytes) crc = (crc >> 8) ^ crc_table[(crc ^ static_cast<unsigned char>(c)) & 255];
  return ~crc;
}

std::uint32_t masked_crc32c(std::string_view bytes) {
  const std::uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u;
}

std::string tf_record(std::string_view data) {
  std::string length, out;
  put_raw(length, static_cast<std::uint64_t>(data.size()));
  out = length;
  put_raw(out, masked_crc32c(length));
  out += data;
  put_raw(out, masked_crc32c(data));
  return out;
}

EventWriter::EventWriter(const std::filesystem::path& folder, std::optional<std::int64_t> resumed_from)
    : file_(OutputFile::create(new_event_file(folder))) {
  std::string version = event(0);
  put_bytes(version, 3, "brain.Event:2");
  file_.write(tf_record(version));
  if (resumed_from) {
    std::string restart = event(*resumed_from + 1);
    put_bytes(restart, 7, "\x08\x01");  // SessionLog {1: status = START}
    file_.write(tf_record(restart));
  }
}

void EventWriter::scalar(std::string_view tag, double value, std::int64_t step) {
  const std::pair<std::string, double> one(tag, value);
  scalars({&one, 1}, step);
}

void EventWriter::scalars(std::span<const std::pair<std::string, double>> values, std::int64_t step) {
  std::string summary;
  for (const auto& [tag, value] : values) {
    std::string item;
    put_bytes(item, 1, tag);
    put_key(item, 2, Wire::fixed32);
    put_raw(item, static_cast<float>(value));
    put_bytes(summary, 1, item);
  }
  std::string out = event(step);
  put_bytes(out, 5, summary);
  file_.write(tf_record(out));
}

}  // namespace expctr
