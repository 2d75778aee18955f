// safetensors: round trips, shards, and files with one fault each.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstring>
#include <fstream>

#include "base/error.h"
#include "base/philox.h"
#include "engine/io/safetensors.h"
#include "tests/support/memory_file.h"
#include "tests/support/paths.h"

using namespace expctr;

namespace {

std::string with_header(const std::string& header, std::size_t data_bytes) {
  std::string bytes(8, '\0');
  const std::uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + std::string(data_bytes, '\x01');
}

std::filesystem::path save(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

void check_fault(const char* name, const std::string& bytes, const char* fault) {
  const TemporaryFolder folder;
  try {
    SafetensorsFile::open(save(folder / (std::string(name) + ".safetensors"), bytes));
    FAIL_CHECK(fmt::format("{}: no error", name));
  } catch (const InputError& error) {
    const std::string message = error.what();
    CHECK_MESSAGE(message.find(fault) != std::string::npos, fmt::format("{}: '{}' lacks '{}'", name, message, fault));
    CHECK(message.find(name) != std::string::npos);
  }
}

std::string entry(const char* dtype, const char* shape, const char* offsets) {
  return fmt::format(R"({{"dtype":"{}","shape":{},"data_offsets":{}}})", dtype, shape, offsets);
}

}  // namespace

TEST_CASE("what is written is read back, in a fixed order, aligned") {
  const float matrix[6] = {1, 2, 3, 4, 5, 6};
  const double wide[2] = {0.1, -0.2};
  const std::uint8_t bytes[3] = {7, 8, 9};
  const std::int64_t ids[1] = {-100};
  const TensorBytes tensors[] = {{"z.bytes", DType::u8, {3}, bytes}, {"matrix", DType::f32, {2, 3}, matrix},
                                 {"wide", DType::f64, {2}, wide},    {"empty", DType::f32, {0, 4}, nullptr},
                                 {"ids", DType::i64, {1}, ids},      {"scalar", DType::f32, {}, matrix}};
  const std::string first = serialise_safetensors(tensors, {{"format", "pt"}});
  std::vector<TensorBytes> reversed(std::rbegin(tensors), std::rend(tensors));
  CHECK(serialise_safetensors(reversed, {{"format", "pt"}}) == first);

  const TemporaryFolder folder;
  const SafetensorsFile file = SafetensorsFile::open(save(folder / "t.safetensors", first));
  CHECK(file.tensors().size() == 6);
  CHECK(file.metadata().at("format") == "pt");
  const TensorInfo& read = file.required_tensor("matrix");
  CHECK(read.shape == std::vector<std::int64_t>{2, 3});
  CHECK(std::memcmp(read.data, matrix, sizeof matrix) == 0);
  CHECK(std::memcmp(file.required_tensor("wide").data, wide, sizeof wide) == 0);
  CHECK(std::memcmp(file.required_tensor("ids").data, ids, sizeof ids) == 0);
  CHECK(std::memcmp(file.required_tensor("z.bytes").data, bytes, sizeof bytes) == 0);
  CHECK(file.required_tensor("empty").bytes == 0);
  CHECK(file.required_tensor("scalar").elements() == 1);
  for (const TensorInfo& tensor : file.tensors())
    if (tensor.bytes > 0)
      CHECK(reinterpret_cast<std::uintptr_t>(tensor.data) % static_cast<unsigned>(dtype_traits(tensor.dtype).block_bytes) == 0);
  CHECK_THROWS_WITH_AS(file.required_tensor("nothing"), doctest::Contains("no tensor 'nothing'"), InputError);

  const TensorBytes twice[] = {{"a", DType::f32, {1}, matrix}, {"a", DType::f32, {1}, matrix}};
  CHECK_THROWS_AS(serialise_safetensors(twice), Error);
  const TensorBytes blocks[] = {{"a", DType::q4_1, {32}, matrix}};
  CHECK_THROWS_AS(serialise_safetensors(blocks), Error);
}

TEST_CASE("a folder of shards is one model") {
  const TemporaryFolder folder;
  const float a[2] = {1, 2}, b[1] = {3};
  const TensorBytes first[] = {{"a", DType::f32, {2}, a}}, second[] = {{"b", DType::f32, {1}, b}};
  save(folder / "model-00001-of-00002.safetensors", serialise_safetensors(first));
  save(folder / "model-00002-of-00002.safetensors", serialise_safetensors(second));
  const auto index = folder / "model.safetensors.index.json";
  save(index, R"({"metadata":{},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}})");
  for (const auto& path : {folder.path(), index}) {
    const SafetensorsFile model = SafetensorsFile::open(path);
    CHECK(model.tensors().size() == 2);
    CHECK(std::memcmp(model.required_tensor("b").data, b, sizeof b) == 0);
  }
  save(index, R"({"weight_map":{"a":"model-00002-of-00002.safetensors"}})");
  CHECK_THROWS_WITH_AS(SafetensorsFile::open(folder.path()), doctest::Contains("tensor 'a' is not in"), InputError);
  save(index, R"({"weight_map":{"a":"../secret.safetensors"}})");
  CHECK_THROWS_WITH_AS(SafetensorsFile::open(folder.path()), doctest::Contains("which is no file name"), InputError);
  save(index, R"({"weight_map":{"a":"missing.safetensors"}})");
  CHECK_THROWS_WITH_AS(SafetensorsFile::open(folder.path()), doctest::Contains("missing.safetensors"), InputError);
  save(index, "[]");
  CHECK_THROWS_WITH_AS(SafetensorsFile::open(folder.path()), doctest::Contains("no weight_map"), InputError);
}

TEST_CASE("safetensors files that are refused, by fault") {
  const std::string a = entry("F32", "[2]", "[0,8]");
  check_fault("empty", "", "too few");
  check_fault("seven-bytes", "1234567", "too few");
  check_fault("huge-header", std::string("\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10), "the header claims");
  check_fault("header-past-end", std::string("\x20\0\0\0\0\0\0\0{}", 10), "the header claims 32 bytes");
  check_fault("no-object", with_header("[]", 0), "no JSON object");
  check_fault("no-json", with_header("{\"a\":", 8), "no valid JSON");
  check_fault("not-utf8", with_header("{\"\xff\":" + a + "}", 8), "no valid JSON");
  check_fault("deep-json", with_header("{\"a\":" + std::string(10000, '[') + std::string(10000, ']') + "}", 0), "nested more than 4 deep");
  check_fault("name-twice", with_header("{\"a\":" + a + ",\"a\":" + a + "}", 8), "key 'a' is there twice");
  check_fault("dtype-twice", with_header(R"({"a":{"dtype":"F32","dtype":"F64","shape":[2],"data_offsets":[0,8]}})", 8),
              "key 'dtype' is there twice");
  check_fault("unknown-dtype", with_header("{\"a\":" + entry("F31", "[2]", "[0,8]") + "}", 8), "unknown dtype 'F31'");
  check_fault("no-shape", with_header(R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", 8), "lacks a name, dtype, shape");
  check_fault("text-shape", with_header("{\"a\":" + entry("F32", "[\"2\"]", "[0,8]") + "}", 8), "not a whole number");
  check_fault("negative-extent", with_header("{\"a\":" + entry("F32", "[-2]", "[0,8]") + "}", 8), "not a whole number");
  check_fault("fraction", with_header("{\"a\":" + entry("F32", "[2.0]", "[0,8]") + "}", 8), "not a whole number");
  check_fault("shape-overflow", with_header("{\"a\":" + entry("F32", "[4294967296,4294967296]", "[0,8]") + "}", 8), "overflows");
  check_fault("bytes-overflow", with_header("{\"a\":" + entry("F64", "[4611686018427387904]", "[0,8]") + "}", 8), "overflows");
  check_fault("beyond-u64", with_header("{\"a\":" + entry("F32", "[99999999999999999999]", "[0,8]") + "}", 8), "not a whole number");
  check_fault("three-offsets", with_header("{\"a\":" + entry("F32", "[2]", "[0,8,8]") + "}", 8), "two data_offsets");
  check_fault("offsets-reversed", with_header("{\"a\":" + entry("F32", "[2]", "[8,0]") + "}", 8), "outside the data section");
  check_fault("offset-outside", with_header("{\"a\":" + entry("F32", "[2]", "[4,12]") + "}", 8), "outside the data section of 8 bytes");
  check_fault("size-mismatch", with_header("{\"a\":" + entry("F32", "[3]", "[0,8]") + "}", 8), "need 12 bytes, its offsets give 8");
  check_fault("overlap", with_header("{\"a\":" + a + ",\"b\":" + entry("F32", "[2]", "[4,12]") + "}", 12), "tensors 'a' and 'b' overlap");
  check_fault("same-place", with_header("{\"a\":" + a + ",\"b\":" + a + "}", 8), "tensors 'a' and 'b' overlap");
  check_fault("gap", with_header("{\"a\":" + a + ",\"b\":" + entry("F32", "[2]", "[12,20]") + "}", 20),
              "bytes 8 to 12 of the data section belong to no tensor");
  check_fault("data-behind", with_header("{\"a\":" + a + "}", 9), "the last 1 bytes belong to no tensor");
  check_fault("metadata-number", with_header(R"({"__metadata__":{"x":1}})", 0), "is no text");
  check_fault("metadata-array", with_header(R"({"__metadata__":[]})", 0), "no object");
}

TEST_CASE("dtypes the program does not compute with are refused only when asked for") {
  const TemporaryFolder folder;
  const auto path =
      save(folder / "t.safetensors",
           with_header("{\"a\":" + entry("F8_E4M3", "[8]", "[0,8]") + ",\"mask\":" + entry("BOOL", "[2]", "[8,10]") + "}", 10));
  const SafetensorsFile file = SafetensorsFile::open(path);
  CHECK(file.required_tensor("mask").dtype == DType::u8);
  CHECK(file.unsupported().size() == 1);
  CHECK_THROWS_WITH_AS(file.find_tensor("a"), doctest::Contains("F8_E4M3"), InputError);
}

TEST_CASE("1,000 random damages of a safetensors header: refused or read, never a crash") {
  const MemoryFile memory;
  const std::string whole = read_text(oracle_root() / "llm/gguf_types/other_types.safetensors");
  std::uint64_t header = 0;
  std::memcpy(&header, whole.data(), 8);
  int refused = 0, read = 0;
  for (std::uint32_t trial = 0; trial < 1000; ++trial) {
    const RandomBits bits = philox(random_key(8, "damaged safetensors"), {trial, 0, 0, 0});
    std::string bytes = whole;
    bytes[bits.word[0] % (8 + header)] = static_cast<char>(bits.word[1]);
    try {
      const SafetensorsFile file = SafetensorsFile::open(memory.hold(bytes));
      unsigned sum = 0;
      for (const TensorInfo& tensor : file.tensors())
        for (std::size_t i = 0; i < tensor.bytes; ++i) sum += static_cast<unsigned>(tensor.data[i]);
      read += sum > 0;
    } catch (const InputError&) {
      ++refused;
    }
  }
  CHECK(read + refused == 1000);
  CHECK(refused > 300);
}

TEST_CASE("model minilm: its 100-odd tensors are read") {
  const auto model = find_model("minilm/model.safetensors");
  if (!model) return skip_test("model minilm");
  const SafetensorsFile file = SafetensorsFile::open(*model);
  CHECK(file.unsupported().empty());
  CHECK(file.required_tensor("embeddings.word_embeddings.weight").shape == std::vector<std::int64_t>{30522, 384});
  CHECK(file.required_tensor("embeddings.position_ids").dtype == DType::i64);
}
