#include "data/atomic_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <set>

#include "base/error.h"

namespace expctr {
namespace {

constexpr std::array<ColumnType, 4> all_types = {ColumnType::token, ColumnType::token_seq, ColumnType::float_number, ColumnType::float_seq};

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

const char* nearest_type(std::string_view name) {
  const char* best = column_type_name(ColumnType::token);
  std::size_t best_distance = edit_distance(name, best);
  for (const ColumnType type : all_types) {
    const std::size_t distance = edit_distance(name, column_type_name(type));
    if (distance < best_distance) {
      best = column_type_name(type);
      best_distance = distance;
    }
  }
  return best;
}

std::string listed(const std::vector<Column>& columns) {
  std::string result;
  for (const Column& column : columns) result += (result.empty() ? "" : ", ") + column.declared();
  return result;
}

// A field for a message: short, and without bytes that a terminal would act on.
std::string shown(std::string_view text) {
  constexpr std::size_t longest = 60;
  std::string result;
  for (const char c : text.substr(0, longest)) result += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
  while (first_invalid_utf8(result)) result.pop_back();
  return text.size() > longest ? result + "..." : result;
}

}  // namespace

const char* column_type_name(ColumnType type) {
  switch (type) {
    case ColumnType::token:
      return "token";
    case ColumnType::token_seq:
      return "token_seq";
    case ColumnType::float_number:
      return "float";
    case ColumnType::float_seq:
      return "float_seq";
  }
  return "?";
}

AtomicReader::AtomicReader(const std::filesystem::path& path) : AtomicReader(path.string(), open_bytes(path)) {}

AtomicReader::AtomicReader(const std::string& name, ByteSource source) : lines_(name, std::move(source)) { read_header(); }

AtomicReader::AtomicReader(const std::filesystem::path& path, PlainForm form)
    : AtomicReader(path.string(), open_bytes(path), std::move(form)) {}

AtomicReader::AtomicReader(const std::string& name, ByteSource source, PlainForm form)
    : lines_(name, std::move(source)), form_(std::move(form)) {}

void AtomicReader::read_header() {
  if (!lines_.next(line_)) throw InputError(fmt::format("{}: the file is empty", name()), "an atomic file starts with user_id:token ...");
  check_bytes();
  split();
  std::set<std::string> names;
  for (std::size_t i = 0; i < fields_.size(); ++i) {
    const int column = static_cast<int>(i);
    const std::string_view field = fields_[i];
    const std::size_t colon = field.rfind(':');
    if (colon == std::string_view::npos)
      fail(column, fmt::format("`{}` has no type", shown(field)),
           fmt::format("write `{}:token` or another of token, token_seq, float, float_seq", shown(field)));
    const std::string_view type_name = field.substr(colon + 1);
    Column parsed{std::string(field.substr(0, colon)), ColumnType::token};
    bool known = false;
    for (const ColumnType type : all_types)
      if (type_name == column_type_name(type)) {
        parsed.type = type;
        known = true;
      }
    if (!known)
      fail(column, fmt::format("unknown type `{}`; legal: token, token_seq, float, float_seq", shown(type_name)),
           fmt::format("did you mean `{}:{}`?", shown(parsed.name), nearest_type(type_name)));
    if (!names.insert(parsed.name).second)
      fail(column, fmt::format("column `{}` is already there", shown(parsed.name)), "give each column a name of its own");
    form_.columns.push_back(std::move(parsed));
  }
}

std::optional<int> AtomicReader::find(std::string_view column) const {
  for (std::size_t i = 0; i < form_.columns.size(); ++i)
    if (form_.columns[i].name == column) return static_cast<int>(i);
  return std::nullopt;
}

int AtomicReader::require(std::string_view declared, const std::string& hint) const {
  if (const auto column = find(declared.substr(0, declared.rfind(':')))) return *column;
  throw InputError(fmt::format("{}, line 1: no column '{}' among {}", name(), declared, listed(form_.columns)), hint);
}

bool AtomicReader::next() {
  do {
    if (!lines_.next(line_)) return false;
  } while (line_.text.empty());
  check_bytes();
  split();
  const std::size_t expected = form_.columns.size();
  if (fields_.size() < expected || (fields_.size() > expected && !form_.more_columns))
    fail_line(fmt::format("{} fields, expected {} ({})", fields_.size(), expected, listed(form_.columns)),
              form_.delimiter == '\t' ? "columns are separated by one TAB" : fmt::format("columns are separated by `{}`", form_.delimiter));
  return true;
}

void AtomicReader::check_bytes() {
  const std::string_view text = line_.text;
  const std::size_t nul = text.find('\0');
  const std::optional<std::size_t> invalid = form_.encoding == Encoding::utf8 ? first_invalid_utf8(text) : std::nullopt;
  const std::size_t at = std::min(nul, invalid.value_or(std::string_view::npos));
  if (at == std::string_view::npos) {
    if (form_.encoding == Encoding::latin1) {
      converted_ = latin1_to_utf8(text);
      line_.text = converted_;
    }
    return;
  }
  // A u.item under another name: its columns are the ones a reader of the message counts.
  const bool bars = text.find(form_.delimiter) == std::string_view::npos && text.find('|') != std::string_view::npos;
  const auto delimiters = std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), bars ? '|' : form_.delimiter);
  const std::string place = fmt::format("{}, line {}, column {}, byte offset {}", name(), line_.number, delimiters + 1,
                                        line_.offset + static_cast<std::int64_t>(at));
  if (at == nul) throw InputError(place + ": NUL byte", "the file is binary or damaged");
  throw InputError(place + ": invalid UTF-8", "convert the file to UTF-8; if it is Latin-1, say data.encoding: latin-1");
}

void AtomicReader::split() {
  fields_.clear();
  std::string_view rest = line_.text;
  while (true) {
    const std::size_t end = rest.find(form_.delimiter);
    fields_.push_back(rest.substr(0, end));
    if (end == std::string_view::npos) return;
    rest.remove_prefix(end + 1);
  }
}

std::string_view AtomicReader::id(int column) const {
  const std::string_view field = text(column);
  if (field.empty()) fail(column, "empty id", "every row needs its user and item");
  return field;
}

double AtomicReader::number(int column) const {
  const std::string_view field = text(column);
  double value = 0;
  const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), value);
  if (error == std::errc::invalid_argument || end != field.data() + field.size() || field.empty())
    fail(column, fmt::format("`{}` is not a number", shown(field)),
         "numbers are written with a point, without blanks, as 4.5 or 881250949");
  if (error == std::errc::result_out_of_range || !std::isfinite(value))
    fail(column, fmt::format("`{}` is not a finite number", shown(field)), "remove the row or mend the value");
  return value;
}

std::vector<std::string> AtomicReader::sequence(int column) const {
  std::vector<std::string> result;
  std::string_view rest = text(column);
  while (!rest.empty()) {
    const std::size_t end = rest.find(' ');
    if (end != 0) result.emplace_back(rest.substr(0, end));
    if (end == std::string_view::npos) break;
    rest.remove_prefix(end + 1);
  }
  return result;
}

void AtomicReader::fail(int column, const std::string& fault, const std::string& hint) const {
  const auto index = static_cast<std::size_t>(column);
  const std::string label = index < form_.columns.size() ? fmt::format(" ({})", form_.columns[index].name) : "";
  throw InputError(fmt::format("{}, line {}, column {}{}: {}", name(), line_.number, column + 1, label, fault), hint);
}

void AtomicReader::fail_line(const std::string& fault, const std::string& hint) const {
  throw InputError(fmt::format("{}, line {}: {}", name(), line_.number, fault), hint);
}

}  // namespace expctr
