// GGUF files with one fault each: every one is refused with a message that names the fault, none is believed.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include "base/error.h"
#include "base/philox.h"
#include "engine/io/dequantise.h"
#include "engine/io/gguf.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/memory_file.h"
#include "tests/support/paths.h"

using namespace expctr;

namespace {

constexpr std::uint32_t f32 = 0, q4_1 = 3, i8 = 24;
constexpr std::uint64_t huge = std::uint64_t{1} << 60;

/// A right file: two keys, two tensors.
GgufWriter good() {
  GgufWriter w;
  w.header(2, 2).string_entry("general.architecture", "llama").u32_entry("llama.block_count", 7);
  w.tensor("a", {8, 2}, f32, 0).tensor("b", {32, 3}, q4_1, 64).data(64 + 60);
  return w;
}

std::string fault_of(const std::filesystem::path& path) {
  try {
    GgufFile::open(path);
  } catch (const InputError& error) {
    CHECK(std::string(error.what()).find("HINT: ") != std::string::npos);
    CHECK(error.code() == ExitCode::bad_input);
    return error.what();
  }
  return "no error";
}

void check_fault(const char* name, const GgufWriter& writer, const char* fault) {
  const TemporaryFolder folder;
  const std::string message = fault_of(writer.save(folder / (std::string(name) + ".gguf")));
  CHECK_MESSAGE(message.find(fault) != std::string::npos, fmt::format("{}: '{}' lacks '{}'", name, message, fault));
}

}  // namespace

TEST_CASE("a handmade GGUF file is read as written") {
  const TemporaryFolder folder;
  const GgufFile file = GgufFile::open(good().save(folder / "good.gguf"));
  CHECK(file.version() == 3);
  CHECK(file.keys() == std::vector<std::string>{"general.architecture", "llama.block_count"});
  CHECK(file.required_u32("llama.block_count") == 7);
  CHECK(file.find_i64("llama.block_count") == 7);
  CHECK_FALSE(file.find_u32("absent").has_value());
  REQUIRE(file.tensors().size() == 2);
  CHECK(file.required_tensor("a").shape == std::vector<std::int64_t>{2, 8});
  CHECK(file.required_tensor("b").shape == std::vector<std::int64_t>{3, 32});
  CHECK(file.required_tensor("b").bytes == 60);
  CHECK(file.required_tensor("b").data - file.required_tensor("a").data == 64);
  CHECK(file.find_tensor("c") == nullptr);
  CHECK_THROWS_WITH_AS(file.required_tensor("c"), doctest::Contains("no tensor 'c'"), InputError);
  CHECK_THROWS_WITH_AS(file.required_string("llama.block_count"), doctest::Contains("is of type u32, not string"), InputError);
  CHECK_THROWS_WITH_AS(file.required_string("llama.name"), doctest::Contains("no key 'llama.name'"), InputError);
}

TEST_CASE("typed metadata: every type, arrays, nested arrays, other widths") {
  GgufWriter w;
  w.header(0, 10, 2);
  w.key("u8", 0).number(std::uint8_t{200}).key("i64", 11).number(std::int64_t{-5}).key("u64", 10).number(~std::uint64_t{0});
  w.key("f64", 12).number(0.5).key("flag", 7).number(std::uint8_t{1});
  w.string_array("words", {"x", "", "yz"})
      .number_array<std::uint16_t>("shorts", 2, {1, 65535})
      .number_array<float>("reals", 6, {1.5f, -2.0f});
  w.key("nested", 9).number(std::uint32_t{9}).number(std::uint64_t{2});
  for (int i = 0; i < 2; ++i) w.number(std::uint32_t{8}).number(std::uint64_t{1}).text("deep");
  w.number_array<std::int64_t>("wide", 11, {std::int64_t{1} << 40});
  const TemporaryFolder folder;
  const GgufFile file = GgufFile::open(w.save(folder / "types.gguf"));
  CHECK(file.version() == 2);
  CHECK(file.find_u32("u8") == 200u);
  CHECK(file.find_i64("i64") == -5);
  CHECK_THROWS_AS(file.find_u32("i64"), InputError);
  CHECK_THROWS_AS(file.find_i64("u64"), InputError);
  CHECK(file.find_f32("f64") == 0.5f);
  CHECK(file.find_bool("flag") == true);
  CHECK(file.find_string_array("words") == std::vector<std::string>{"x", "", "yz"});
  CHECK(file.find_i32_array("shorts") == std::vector<std::int32_t>{1, 65535});
  CHECK(file.find_f32_array("reals") == std::vector<float>{1.5f, -2.0f});
  CHECK_THROWS_AS(file.find_string_array("nested"), InputError);
  CHECK(file.type("nested") == GgufType::array);
  CHECK(file.count("nested") == 2);
  CHECK_THROWS_AS(file.find_i32_array("wide"), InputError);
  CHECK_THROWS_AS(file.find_f32_array("words"), InputError);
  CHECK_THROWS_AS(file.find_string("words"), InputError);
}

TEST_CASE("GGUF files that are refused, by fault") {
  check_fault("empty", {}, "the file is empty");
  check_fault("no-magic", GgufWriter{"GGML0000"}, "not a GGUF file (magic 47 47 4d 4c)");
  check_fault("only-magic", GgufWriter{"GGUF"}, "the file ends inside the metadata");
  check_fault("version-1", GgufWriter{}.header(0, 0, 1), "GGUF version 1 is not supported");
  check_fault("big-endian", GgufWriter{}.header(0, 0, 0x03000000u), "big-endian");
  check_fault("huge-tensor-count", GgufWriter{}.header(huge, 0), "more than 0 bytes can hold");
  check_fault("huge-entry-count", GgufWriter{}.header(0, huge).data(1000), "bytes can hold");
  check_fault("huge-key", GgufWriter{}.header(0, 1).number(huge).data(100), "the first key");
  check_fault("huge-string", GgufWriter{}.header(0, 1).key("k", 8).number(huge).data(100), "reading key 'k'");
  check_fault("string-length-wraps", GgufWriter{}.header(0, 1).key("k", 8).number(~std::uint64_t{0}).data(100), "reading key 'k'");
  check_fault("huge-array", GgufWriter{}.header(0, 1).key("k", 9).number(std::uint32_t{6}).number(huge).data(100), "an array claims");
  check_fault("array-size-wraps", GgufWriter{}.header(0, 1).key("k", 9).number(std::uint32_t{12}).number(std::uint64_t{1} << 61).data(64),
              "an array claims");
  check_fault("empty-key", GgufWriter{}.header(0, 1).u32_entry("", 1), "key '' is empty");
  check_fault("key-no-utf8", GgufWriter{}.header(0, 1).u32_entry("\xff\x1b[2J", 1), "key '\\xff\\x1b[2J'");
  check_fault("long-key", GgufWriter{}.header(0, 1).u32_entry(std::string(70000, 'k'), 1), "longer than 65535");
  check_fault("unknown-value-type", GgufWriter{}.header(0, 1).key("k", 13).number(std::uint64_t{0}), "unknown value type 13");
  check_fault("bool-of-two", GgufWriter{}.header(0, 1).key("k", 7).number(std::uint8_t{2}), "a bool with the value 2");
  check_fault("key-twice", GgufWriter{}.header(0, 2).u32_entry("k", 1).u32_entry("k", 2), "the key is there twice");
  GgufWriter nested;
  nested.header(0, 1).key("k", 9);
  for (int i = 0; i < 100; ++i) nested.number(std::uint32_t{9}).number(std::uint64_t{1});
  check_fault("deep-nesting", nested, "arrays inside arrays");
  check_fault("alignment-zero", GgufWriter{}.header(1, 1).u32_entry("general.alignment", 0).tensor("a", {1}, f32, 0).data(4),
              "general.alignment is 0");
  check_fault("alignment-odd", GgufWriter{}.header(1, 1).u32_entry("general.alignment", 24).tensor("a", {1}, f32, 0).data(4),
              "general.alignment is 24");
  check_fault("alignment-text", GgufWriter{}.header(0, 1).string_entry("general.alignment", "32"), "'general.alignment' is of type string");

  check_fault("five-extents", GgufWriter{}.header(1, 0).tensor("a", {1, 1, 1, 1, 1}, f32, 0).data(4), "5 extents");
  check_fault("extents-overflow", GgufWriter{}.header(1, 0).tensor("a", {huge, huge}, f32, 0).data(4), "product of the extents overflows");
  check_fault("extents-overflow-with-zero", GgufWriter{}.header(1, 0).tensor("a", {huge, huge, 0}, f32, 0).data(4),
              "product of the extents overflows");
  check_fault("bytes-overflow", GgufWriter{}.header(1, 0).tensor("a", {std::uint64_t{1} << 62}, f32, 0).data(4), "overflows");
  check_fault("negative-extent", GgufWriter{}.header(1, 0).tensor("a", {~std::uint64_t{0}}, f32, 0).data(4), "overflows");
  check_fault("half-block", GgufWriter{}.header(1, 0).tensor("a", {48}, q4_1, 0).data(40), "no multiple of the q4_1 block of 32");
  check_fault("offset-unaligned", GgufWriter{}.header(1, 0).tensor("a", {4}, f32, 4).data(64), "no multiple of the alignment");
  check_fault("offset-outside", GgufWriter{}.header(1, 0).tensor("a", {4}, f32, 96).data(64), "tensor 'a' needs bytes 96 to 112");
  check_fault("offset-wraps", GgufWriter{}.header(1, 0).tensor("a", {16}, f32, ~std::uint64_t{31}).data(64), "tensor 'a' needs bytes");
  check_fault("tensor-cut", GgufWriter{}.header(1, 0).tensor("a", {17}, f32, 0).data(64),
              "needs bytes 0 to 68 of the data section, which has 64");
  check_fault("no-data", GgufWriter{}.header(1, 0).tensor("a", {4}, f32, 0), "which has 0");
  check_fault("tensor-list-cut", GgufWriter{}.header(1, 0).text("a").number(std::uint32_t{2}).number(std::uint64_t{1}), "more than");
  check_fault("tensors-overlap", GgufWriter{}.header(2, 0).tensor("a", {16}, f32, 0).tensor("b", {4}, f32, 32).data(64),
              "'a' and 'b' overlap");
  check_fault("tensors-same-place", GgufWriter{}.header(2, 0).tensor("a", {4}, f32, 0).tensor("b", {4}, f32, 0).data(64), "overlap");
  check_fault("tensor-twice", GgufWriter{}.header(2, 0).tensor("a", {4}, f32, 0).tensor("a", {4}, f32, 32).data(64),
              "tensor 'a' is there twice");
}

TEST_CASE("a file cut at any byte is refused") {
  const MemoryFile file;
  const GgufWriter whole = good();
  int refused = 0;
  for (std::size_t size = 0; size < whole.bytes.size(); ++size) {
    const std::string message = fault_of(file.hold(std::string_view(whole.bytes).substr(0, size)));
    refused += message != "no error";
  }
  CHECK(refused == static_cast<int>(whole.bytes.size()));
}

TEST_CASE("a refused count allocates nothing") {
  const TemporaryFolder folder;
  const auto path = GgufWriter{}.header(huge, huge).data(100).save(folder / "huge.gguf");
  rusage before{}, after{};
  getrusage(RUSAGE_SELF, &before);
  CHECK_THROWS_AS(GgufFile::open(path), InputError);
  getrusage(RUSAGE_SELF, &after);
  CHECK(after.ru_maxrss - before.ru_maxrss < 1024);
}

TEST_CASE("types the program does not compute with are listed and refused by name") {
  const TemporaryFolder folder;
  const auto path =
      GgufWriter{}.header(2, 0).tensor("bytes", {4}, i8, 0).tensor("strange", {4}, 77, 32).data(64).save(folder / "types.gguf");
  const GgufFile file = GgufFile::open(path);
  CHECK(file.tensors().empty());
  REQUIRE(file.unsupported().size() == 2);
  CHECK_THROWS_WITH_AS(file.find_tensor("bytes"), doctest::Contains("element type i8"), InputError);
  CHECK_THROWS_WITH_AS(file.find_tensor("strange"), doctest::Contains("element type number 77"), InputError);
}

TEST_CASE("3,000 random damages of a right file: refused or read, never a crash") {
  const MemoryFile memory;
  const std::string whole = read_text(oracle_root() / "llm/gguf_types/types.gguf");
  const RandomKey key = random_key(7, "damaged gguf");
  int refused = 0, read = 0;
  std::vector<float> row;
  for (std::uint32_t trial = 0; trial < 3000; ++trial) {
    std::string damaged = whole;
    for (std::uint32_t change = 0; change < 1 + trial % 4; ++change) {
      const RandomBits bits = philox(key, {trial, change, 0, 0});
      damaged[bits.word[0] % 640] = static_cast<char>(bits.word[2] % 3 == 0 ? 0xFF : bits.word[1]);  // the metadata is there
    }
    try {
      const GgufFile file = GgufFile::open(memory.hold(damaged));
      for (const TensorInfo& tensor : file.tensors()) {
        if (tensor.dtype == DType::i32 || tensor.dtype == DType::i64) continue;
        row.resize(static_cast<std::size_t>(tensor.elements()));
        dequantise_row(tensor.dtype, tensor.data, row.data(), tensor.elements());
      }
      ++read;
    } catch (const InputError&) {
      ++refused;
    }
  }
  CHECK(read + refused == 3000);
  CHECK(refused > 300);
  CHECK(read > 30);
}

TEST_CASE("data messy: the three broken GGUF files") {
  const auto data = data_root();
  if (!data || !std::filesystem::exists(*data / "messy")) return skip_test("data messy");
  const std::string truncated = fault_of(*data / "messy/41-truncated.gguf");
  CHECK(truncated.find("the file ends inside the metadata") != std::string::npos);
  CHECK(truncated.find("reading key 'tokenizer.ggml.tokens'") != std::string::npos);
  CHECK(truncated.find("(byte ") != std::string::npos);
  CHECK(fault_of(*data / "messy/42-bad-magic.gguf").find("not a GGUF file (magic 47 47 4d 4c)") != std::string::npos);
  CHECK(fault_of(*data / "messy/43-huge-count.gguf").find("more than") != std::string::npos);
}

TEST_CASE("missing files and folders are named") {
  CHECK_THROWS_WITH_AS(GgufFile::open("no/such/file.gguf"), doctest::Contains("no/such/file.gguf"), InputError);
  const TemporaryFolder folder;
  CHECK_THROWS_WITH_AS(GgufFile::open(folder.path()), doctest::Contains("is a folder"), InputError);
}
