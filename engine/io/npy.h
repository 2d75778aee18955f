// NumPy's .npy: one array in a file.
// Source: NEP 1, format versions 1.0 to 3.0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace expctr {

struct NpyArray {
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;  ///< row-major, little-endian
};

/// Reads '<f4', '<f8', '<i8', '<i4' and '|u1' in C order. Throws InputError for everything else, for a header that does not parse, a shape
/// whose product overflows, and a file whose size does not fit the shape exactly.
NpyArray read_npy(const std::filesystem::path& path);

/// The bytes of an .npy file, version 1.0, data aligned to 64 bytes. dtypes as above; throws Error for others.
std::string serialise_npy(DType dtype, std::span<const std::int64_t> shape, const void* data);

}  // namespace expctr
