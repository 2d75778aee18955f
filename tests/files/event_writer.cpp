#include "engine/log/event_writer.h"

#include <doctest/doctest.h>

#include <cstdlib>

#include "tests/support/paths.h"

using namespace expctr;

namespace {

std::uint64_t little_endian(std::string_view bytes, std::size_t at, int count) {
  std::uint64_t value = 0;
  for (int i = count; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes.at(at + static_cast<std::size_t>(i)));
  return value;
}

/// The data of every record, each with its two checksums right.
std::vector<std::string> records(const std::string& file) {
  std::vector<std::string> found;
  for (std::size_t at = 0; at < file.size();) {
    const std::uint64_t length = little_endian(file, at, 8);
    CHECK(little_endian(file, at + 8, 4) == masked_crc32c(file.substr(at, 8)));
    found.push_back(file.substr(at + 12, length));
    CHECK(little_endian(file, at + 12 + length, 4) == masked_crc32c(found.back()));
    at += 16 + length;
  }
  return found;
}

}  // namespace

TEST_CASE("CRC-32C gives the known answers of RFC 3720, B.4") {
  CHECK(crc32c("123456789") == 0xE3069283u);
  CHECK(crc32c(std::string(32, '\0')) == 0x8A9136AAu);
  CHECK(crc32c(std::string(32, '\xFF')) == 0x62A8AB43u);
  std::string rising, falling;
  for (int i = 0; i < 32; ++i) rising += static_cast<char>(i), falling += static_cast<char>(31 - i);
  CHECK(crc32c(rising) == 0x46DD794Eu);
  CHECK(crc32c(falling) == 0x113FDB5Cu);
  CHECK(crc32c("") == 0);
  CHECK(masked_crc32c("") == 0xA282EAD8u);
  // The first twelve bytes of the event files that TensorFlow itself writes: 24 bytes follow.
  using namespace std::string_literals;
  CHECK(tf_record(std::string(24, 'x')).substr(0, 12) == "\x18\0\0\0\0\0\0\0\xA3\x7FK\""s);
}

TEST_CASE("an event file has the bytes of the format") {
  const TemporaryFolder folder;
  EventWriter writer(folder / "events", 41);
  writer.scalar("loss", 1.5, 300);
  const std::pair<std::string, double> two[] = {{"a", 0.0}, {"b", -2.0}};
  writer.scalars(two, 301);
  CHECK(writer.path().filename().string().starts_with("events.out.tfevents."));
  const std::vector<std::string> data = records(read_text(writer.path()));
  REQUIRE(data.size() == 4);
  for (const std::string& event : data) CHECK(event[0] == '\x09');
  // Behind the wall time (9 bytes): step as a varint, then the content. Written by hand from the format's description.
  using namespace std::string_literals;
  CHECK(data[0].substr(9) ==
        "\x10\x00\x1A\x0D"
        "brain.Event:2"s);
  CHECK(data[1].substr(9) == "\x10\x2A\x3A\x02\x08\x01"s);
  CHECK(data[2].substr(9) == "\x10\xAC\x02\x2A\x0D\x0A\x0B\x0A\x04loss\x15\x00\x00\xC0\x3F"s);
  CHECK(data[3].substr(9) ==
        "\x10\xAD\x02\x2A\x14\x0A\x08\x0A\x01"
        "a\x15\x00\x00\x00\x00\x0A\x08\x0A\x01"
        "b\x15\x00\x00\x00\xC0"s);
  // A second writer of the same second gets a file of its own.
  const EventWriter second(folder / "events");
  CHECK(second.path() != writer.path());
}

TEST_CASE("TensorBoard reads the event file") {
  if (std::system("python3 -c 'import tensorboard' >/dev/null 2>&1") != 0) return skip_test("tool tensorboard");
  const TemporaryFolder folder;
  {
    EventWriter writer(folder / "events");
    for (int step = 0; step < 10; ++step) writer.scalar("objective/kl", 0.25 * step, step);
  }
  {
    EventWriter writer(folder / "events", 4);
    writer.scalar("objective/kl", 7.0, 5);
  }
  std::ofstream(folder / "read.py") << R"(import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1])
events.Reload()
print([(e.step, e.value) for e in events.Scalars("objective/kl")])
)";
  const std::string command = fmt::format("python3 '{0}/read.py' '{0}/events' > '{0}/out' 2>'{0}/err'", folder.path().string());
  REQUIRE(std::system(command.c_str()) == 0);
  CHECK(read_text(folder / "out") == "[(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0), (5, 7.0)]\n");
}
