// Small tables that the data tests share.
#pragma once

#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "base/error.h"
#include "data/line_reader.h"
#include "tests/support/paths.h"

namespace expctr {

/// A source that hands out `text` in pieces of `piece` bytes.
inline ByteSource pieces(std::string text, std::size_t piece) {
  return [text = std::move(text), piece, at = std::size_t{0}](char* buffer, std::size_t size) mutable {
    const std::size_t count = std::min({piece, size, text.size() - at});
    std::memcpy(buffer, text.data() + at, count);
    at += count;
    return count;
  };
}

inline void write_text(const std::filesystem::path& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
}

/// The message of the InputError that `action` throws; empty when it throws none.
template <class Action>
std::string input_error(Action&& action) {
  try {
    action();
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

inline bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

/// Folder of the real MovieLens-100K, or nullopt after a skip.
inline std::optional<std::filesystem::path> movielens_or_skip() {
  if (const auto file = find_model("ml-100k/ml-100k.inter")) return file->parent_path();
  skip_test("model ml-100k");
  return std::nullopt;
}

}  // namespace expctr
