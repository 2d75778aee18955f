#include "data/interactions.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/hash.h"

namespace expctr {
namespace {

// Later than any sensible number of seconds (year 5138), earlier than any recent time in milliseconds.
constexpr double largest_second = 1e11;

std::string date_of(double seconds) {
  const double days = std::floor(seconds / 86400);
  if (std::abs(days) > 1e7) return fmt::format("year {:.0f}", 1970 + days / 365.2425);
  const std::chrono::year_month_day date{std::chrono::sys_days{std::chrono::days{static_cast<int>(days)}}};
  return fmt::format("{:04}-{:02}-{:02}", static_cast<int>(date.year()), static_cast<unsigned>(date.month()),
                     static_cast<unsigned>(date.day()));
}

void warn_of_times(const std::string& name, Interactions& data, std::int64_t first_large_line) {
  if (data.time.empty()) return;
  const auto [low, high] = std::minmax_element(data.time.begin(), data.time.end());
  const std::string span = fmt::format("times run from {} to {}", date_of(*low), date_of(*high));
  if (*low < 0) data.warnings.push_back(fmt::format("{}: {}; some lie before 1970", name, span));
  if (*high > largest_second)
    data.warnings.push_back(fmt::format("{}: {}; units seem mixed or not seconds (first on line {})", name, span, first_large_line));
}

void warn_of_repeats(const std::string& name, Interactions& data) {
  std::vector<std::int64_t> order(data.user.size());
  std::iota(order.begin(), order.end(), std::int64_t{0});
  const auto key = [&](std::int64_t row) {
    const auto r = static_cast<std::size_t>(row);
    return std::tuple(data.user[r], data.item[r], data.rating.empty() ? 0.0f : data.rating[r], data.time.empty() ? 0.0 : data.time[r]);
  };
  std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return key(a) < key(b); });
  std::int64_t identical = 0, repeated = 0;
  for (std::size_t i = 1; i < order.size(); ++i) {
    const auto before = key(order[i - 1]), now = key(order[i]);
    identical += before == now;
    repeated += std::get<0>(before) == std::get<0>(now) && std::get<1>(before) == std::get<1>(now);
  }
  if (repeated > 0)
    data.warnings.push_back(
        fmt::format("{}: {} rows repeat a pair of user and item, {} of them identically; all rows are kept", name, repeated, identical));
}

}  // namespace

bool is_numeric_id(std::string_view id, std::uint64_t& value) {
  if (id.empty() || (id.size() > 1 && id[0] == '0')) return false;
  const auto [end, error] = std::from_chars(id.data(), id.data() + id.size(), value);
  return error == std::errc() && end == id.data() + id.size();
}

std::int32_t IdTable::add(std::string_view id) {
  const auto [entry, is_new] = index_.try_emplace(std::string(id), size());
  if (is_new) {
    std::uint64_t value = 0;
    const bool numeric = is_numeric_id(id, value);
    texts_.emplace_back(id);
    keys_.push_back(numeric ? value : fnv1a(id));
    numeric_.push_back(numeric);
  }
  return entry->second;
}

std::int32_t IdTable::find(std::string_view id) const {
  const auto entry = index_.find(std::string(id));
  return entry == index_.end() ? -1 : entry->second;
}

bool IdTable::less(std::int32_t a, std::int32_t b) const {
  const auto i = static_cast<std::size_t>(a), j = static_cast<std::size_t>(b);
  if (numeric_[i] != numeric_[j]) return numeric_[i];
  return numeric_[i] ? keys_[i] < keys_[j] : texts_[i] < texts_[j];
}

Interactions read_interactions(AtomicReader& reader, const InteractionColumns& columns) {
  const std::string rename = "name the column with data.columns.";
  const int user = reader.require(columns.user + ":token", rename + "user");
  const int item = reader.require(columns.item + ":token", rename + "item");
  const auto optional_column = [&](const std::string& name, bool required, const std::string& hint) {
    return required ? reader.require(name + ":float", hint) : reader.find(name).value_or(-1);
  };
  const int rating = optional_column(columns.rating, columns.require_rating, "labels come from ratings; " + rename + "rating");
  const int time = optional_column(columns.time, columns.require_time,
                                   "this job splits by time; " + rename + "time or choose data.split.kind: leave_one_out_by_order");

  Interactions data;
  std::int64_t first_large_line = 0;
  while (reader.next()) {
    data.user.push_back(data.users.add(reader.id(user)));
    data.item.push_back(data.items.add(reader.id(item)));
    if (rating >= 0) {
      const double value = reader.number(rating);
      if (std::abs(value) > std::numeric_limits<float>::max()) reader.fail(rating, "too large for a rating", "ratings are small numbers");
      data.rating.push_back(static_cast<float>(value));
    }
    if (time >= 0) {
      data.time.push_back(reader.number(time));
      if (first_large_line == 0 && data.time.back() > largest_second) first_large_line = reader.line();
    }
  }
  if (data.user.empty()) throw InputError(fmt::format("{}: 0 rows after the header", reader.name()), "the file holds no interactions");
  warn_of_times(reader.name(), data, first_large_line);
  warn_of_repeats(reader.name(), data);
  return data;
}

Interactions load_interactions(const std::filesystem::path& path, const InteractionColumns& columns) {
  if (path.filename() == "u.data") {
    PlainForm form;
    form.columns = {{columns.user, ColumnType::token},
                    {columns.item, ColumnType::token},
                    {columns.rating, ColumnType::float_number},
                    {columns.time, ColumnType::float_number}};
    AtomicReader reader(path, form);
    return read_interactions(reader, columns);
  }
  AtomicReader reader(path);
  return read_interactions(reader, columns);
}

void order_without_time(Interactions& data, std::uint64_t seed) {
  std::vector<std::size_t> order(data.user.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::vector<std::uint64_t> key(order.size());
  for (std::size_t row = 0; row < order.size(); ++row)
    key[row] = splitmix64(splitmix64(seed + data.users.key(data.user[row])) + data.items.key(data.item[row]));
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    if (data.user[a] != data.user[b]) return data.user[a] < data.user[b];
    if (key[a] != key[b]) return key[a] < key[b];
    if (data.item[a] != data.item[b]) return data.items.less(data.item[a], data.item[b]);
    return a < b;  // the same pair twice: nothing tells them apart but the file
  });
  data.time.assign(order.size(), 0.0);
  for (std::size_t i = 1; i < order.size(); ++i)
    data.time[order[i]] = data.user[order[i]] == data.user[order[i - 1]] ? data.time[order[i - 1]] + 1 : 0.0;
}

LabelRule::LabelRule(std::string_view rule) : text_(rule) {
  const auto skip_blanks = [&rule] { rule.remove_prefix(std::min(rule.find_first_not_of(' '), rule.size())); };
  const auto wrong = [this] {
    return UsageError(fmt::format("data.label_rule: `{}` is not a rule", text_), "write it as `rating >= 4` or `rating > 3`");
  };
  skip_blanks();
  if (!rule.starts_with("rating")) throw wrong();
  rule.remove_prefix(6);
  skip_blanks();
  for (const char* candidate : {">=", "<=", "==", ">", "<"})
    if (operator_.empty() && rule.starts_with(candidate)) operator_ = candidate;
  if (operator_.empty()) throw wrong();
  rule.remove_prefix(operator_.size());
  skip_blanks();
  const std::size_t last = rule.find_last_not_of(' ');
  if (last == std::string_view::npos) throw wrong();
  rule = rule.substr(0, last + 1);
  const auto [end, error] = std::from_chars(rule.data(), rule.data() + rule.size(), threshold_);
  if (error != std::errc() || end != rule.data() + rule.size() || !std::isfinite(threshold_)) throw wrong();
}

bool LabelRule::operator()(double rating) const {
  if (operator_ == ">=") return rating >= threshold_;
  if (operator_ == ">") return rating > threshold_;
  if (operator_ == "<=") return rating <= threshold_;
  if (operator_ == "<") return rating < threshold_;
  return rating == threshold_;
}

std::vector<std::uint8_t> labels_of(const Interactions& data, const LabelRule& rule) {
  if (data.rating.empty()) throw InputError("the interactions carry no ratings", "name the column with data.columns.rating");
  std::vector<std::uint8_t> labels(data.rating.size());
  for (std::size_t row = 0; row < labels.size(); ++row) labels[row] = rule(data.rating[row]) ? 1 : 0;
  return labels;
}

}  // namespace expctr
