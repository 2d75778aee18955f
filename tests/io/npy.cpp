// .npy files: bytes that NumPy wrote, round trips, and faults.
#include "engine/io/npy.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstring>
#include <fstream>

#include "base/error.h"
#include "tests/support/paths.h"

using namespace expctr;

namespace {

std::filesystem::path save(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

std::string with_header(const std::string& dictionary, std::size_t data_bytes) {
  std::string bytes("\x93NUMPY\x01\x00", 8);
  bytes += static_cast<char>(dictionary.size() & 255);
  bytes += static_cast<char>(dictionary.size() >> 8);
  bytes += dictionary;
  bytes.append(data_bytes, '\x01');
  return bytes;
}

void check_fault(const char* name, const std::string& bytes, const char* fault) {
  const TemporaryFolder folder;
  try {
    read_npy(save(folder / name, bytes));
    FAIL_CHECK(fmt::format("{}: no error", name));
  } catch (const InputError& error) {
    CHECK_MESSAGE(std::string(error.what()).find(fault) != std::string::npos,
                  fmt::format("{}: '{}' lacks '{}'", name, error.what(), fault));
  }
}

}  // namespace

TEST_CASE("the writer's bytes are those of numpy.save") {
  // numpy.save(f, numpy.array([[1.5, -2.0]], dtype='<f4')) of NumPy 2: 128 bytes of header, padded with blanks to a multiple of 64.
  const float values[2] = {1.5f, -2.0f};
  const std::int64_t shape[2] = {1, 2};
  std::string expected("\x93NUMPY\x01\x00\x76\x00", 10);
  expected += "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }";
  expected.resize(127, ' ');
  expected += '\n';
  expected.append(reinterpret_cast<const char*>(values), sizeof values);
  CHECK(serialise_npy(DType::f32, shape, values) == expected);
}

TEST_CASE("what is written is read back") {
  const TemporaryFolder folder;
  const double values[6] = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6};
  for (const std::vector<std::int64_t>& shape : {std::vector<std::int64_t>{6}, {2, 3}, {1, 2, 3}, {0, 5}, {}}) {
    const NpyArray array = read_npy(save(folder / "a.npy", serialise_npy(DType::f64, shape, values)));
    CHECK(array.shape == shape);
    CHECK(array.dtype == DType::f64);
    CHECK((array.bytes.empty() || std::memcmp(array.bytes.data(), values, array.bytes.size()) == 0));
  }
  const std::int64_t ids[2] = {-1, 1};
  const std::int64_t two[1] = {2};
  CHECK(read_npy(save(folder / "i.npy", serialise_npy(DType::i64, two, ids))).dtype == DType::i64);
  CHECK_THROWS_AS(serialise_npy(DType::q4_1, two, ids), Error);
}

TEST_CASE("npy files that are refused, by fault") {
  check_fault("empty", "", "not an npy file");
  check_fault("zip", "PK\x03\x04 and so on", "not an npy file");
  check_fault("version-9", std::string("\x93NUMPY\x09\x00\x00\x00", 10), "version 9");
  check_fault("header-past-end", std::string("\x93NUMPY\x01\x00\xff\xff{}", 12), "the header claims 65535 bytes");
  check_fault("python", with_header("__import__('os').system('x')", 0), "'{' expected");
  check_fault("fortran", with_header("{'descr': '<f4', 'fortran_order': True, 'shape': (1, 2), }", 8), "Fortran order");
  check_fault("big-endian", with_header("{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }", 8), "'>f4' are not supported");
  check_fault("objects", with_header("{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", 16), "'|O' are not supported");
  check_fault("key-twice", with_header("{'descr': '<f4', 'descr': '<f8', 'fortran_order': False, 'shape': (2,), }", 16),
              "unexpected key 'descr'");
  check_fault("no-shape", with_header("{'descr': '<f4', 'fortran_order': False, }", 8), "is missing");
  check_fault("negative", with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }", 8), "an extent expected");
  check_fault("huge-extent", with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }", 8),
              "an extent overflows");
  check_fault("shape-overflow", with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", 8),
              "overflows");
  check_fault("too-short", with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", 8),
              "the shape needs 12 bytes of data, the file has 8");
  check_fault("too-long", with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", 8), "the file has 8");
  check_fault("unfinished", with_header("{'descr': '<f4", 8), "a text does not end");
}
