// RecBole's atomic files (.inter, .item, .user): TAB between columns, first line "name:type ...", one record a line, streamed.
// The same reader serves the original MovieLens files, which have no header: columns are then given by the caller.
// Source: RecBole documentation, "Atomic files"; specs/ctr-models.md section 5.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/line_reader.h"

namespace expctr {

enum class ColumnType { token, token_seq, float_number, float_seq };
const char* column_type_name(ColumnType type);

struct Column {
  std::string name;
  ColumnType type = ColumnType::token;
  std::string declared() const { return name + ":" + column_type_name(type); }  ///< as in a header
};

/// Form of a file without header.
struct PlainForm {
  char delimiter = '\t';
  Encoding encoding = Encoding::utf8;
  std::vector<Column> columns;
  bool more_columns = false;  ///< rows may have further fields, kept but unnamed
};

/// Reads record by record; every fault names file, line and column (both from 1) and, for bad bytes, the byte offset in the file.
class AtomicReader {
 public:
  /// Reads the header. Errors: empty file, a column without type, an unknown type, a name given twice.
  explicit AtomicReader(const std::filesystem::path& path);
  AtomicReader(const std::string& name, ByteSource source);
  /// A file without header.
  AtomicReader(const std::filesystem::path& path, PlainForm form);
  AtomicReader(const std::string& name, ByteSource source, PlainForm form);

  const std::string& name() const { return lines_.name(); }
  const std::vector<Column>& columns() const { return form_.columns; }
  std::optional<int> find(std::string_view column) const;
  /// Index of a column; the error lists the columns there are. `declared` is "name:type" for the message, `hint` says what to do.
  int require(std::string_view declared, const std::string& hint) const;

  /// The next record; empty lines are skipped and count as lines. Errors: wrong number of fields, NUL byte, invalid UTF-8.
  bool next();
  std::int64_t line() const { return line_.number; }
  int fields() const { return static_cast<int>(fields_.size()); }
  std::string_view text(int column) const { return fields_[static_cast<std::size_t>(column)]; }
  /// A non-empty id.
  std::string_view id(int column) const;
  /// A finite number; "4,5", "NaN" and "inf" are errors.
  double number(int column) const;
  /// A sequence, split at blanks.
  std::vector<std::string> sequence(int column) const;

  [[noreturn]] void fail(int column, const std::string& fault, const std::string& hint) const;
  [[noreturn]] void fail_line(const std::string& fault, const std::string& hint) const;

 private:
  void read_header();
  void check_bytes();
  void split();

  LineReader lines_;
  PlainForm form_;
  Line line_;
  std::string converted_;  // the line in UTF-8 when the file is Latin-1
  std::vector<std::string_view> fields_;
};

}  // namespace expctr
