#include "data/split.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace expctr {

const char* split_name(Split split) {
  switch (split) {
    case Split::train:
      return "train";
    case Split::valid:
      return "valid";
    case Split::test:
      return "test";
  }
  return "?";
}

Split parse_split(std::string_view name) {
  for (const Split split : {Split::train, Split::valid, Split::test})
    if (name == split_name(split)) return split;
  throw UsageError(fmt::format("`{}` is no split", name), "choose train, valid or test");
}

HistoryScope parse_history_scope(std::string_view name) {
  if (name == "all_earlier") return HistoryScope::all_earlier;
  if (name == "train_only") return HistoryScope::train_only;
  throw UsageError(fmt::format("data.history.scope: `{}` is unknown", name), "choose all_earlier or train_only");
}

Timelines::Timelines(const Interactions& data) {
  if (data.time.empty())
    throw InputError("the interactions carry no time", "name the column with data.columns.time or order the rows by a seeded shuffle");
  if (data.rows() > std::numeric_limits<std::int32_t>::max())
    throw ResourceError(fmt::format("{} rows are more than one table holds", data.rows()), "split the data set");
  begin_.assign(static_cast<std::size_t>(data.users.size()) + 1, 0);
  for (const std::int32_t user : data.user) ++begin_[static_cast<std::size_t>(user) + 1];
  for (std::size_t user = 1; user < begin_.size(); ++user) begin_[user] += begin_[user - 1];
  rows_.resize(data.user.size());
  std::vector<std::int64_t> next(begin_.begin(), begin_.end() - 1);
  for (std::size_t row = 0; row < data.user.size(); ++row)
    rows_[static_cast<std::size_t>(next[static_cast<std::size_t>(data.user[row])]++)] = static_cast<std::int32_t>(row);
  earlier_.resize(data.user.size());
  const auto time = [&](std::int32_t row) { return data.time[static_cast<std::size_t>(row)]; };
  for (std::int32_t user = 0; user < users(); ++user) {
    const auto first = rows_.begin() + begin_[static_cast<std::size_t>(user)],
               last = rows_.begin() + begin_[static_cast<std::size_t>(user) + 1];
    std::stable_sort(first, last, [&](std::int32_t a, std::int32_t b) {
      if (time(a) != time(b)) return time(a) < time(b);
      return data.items.less(data.item[static_cast<std::size_t>(a)], data.item[static_cast<std::size_t>(b)]);
    });
    std::int32_t ties_begin = 0;
    for (auto row = first; row != last; ++row) {
      if (row != first && time(*row) != time(*(row - 1))) ties_begin = static_cast<std::int32_t>(row - first);
      earlier_[static_cast<std::size_t>(*row)] = ties_begin;
    }
  }
}

std::span<const std::int32_t> Timelines::of(std::int32_t user) const {
  const auto first = static_cast<std::size_t>(begin_[static_cast<std::size_t>(user)]);
  const auto last = static_cast<std::size_t>(begin_[static_cast<std::size_t>(user) + 1]);
  return std::span(rows_).subspan(first, last - first);
}

std::vector<Split> split_per_user_time(const Timelines& timelines, const SplitOptions& options) {
  if (!(options.test >= 0) || !(options.valid >= 0) || !(options.test + options.valid < 1))
    throw UsageError(fmt::format("data.split: test {} and valid {} leave nothing to train on", options.test, options.valid),
                     "both are shares, together less than 1");
  std::vector<Split> splits(timelines.rows().size(), Split::train);
  for (std::int32_t user = 0; user < timelines.users(); ++user) {
    const auto rows = timelines.of(user);
    // The small term keeps floor(n 0.3) exact where 0.3 n lies just below a whole number.
    const auto share = [&](double part) { return static_cast<std::size_t>(std::floor(static_cast<double>(rows.size()) * part + 1e-9)); };
    const std::size_t test = share(options.test), valid = share(options.valid);
    for (std::size_t i = rows.size() - test; i < rows.size(); ++i) splits[static_cast<std::size_t>(rows[i])] = Split::test;
    for (std::size_t i = rows.size() - test - valid; i < rows.size() - test; ++i) splits[static_cast<std::size_t>(rows[i])] = Split::valid;
  }
  return splits;
}

Histories::Histories(const Timelines& timelines, const std::vector<Split>& splits, HistoryScope scope)
    : timelines_(timelines), known_(static_cast<std::size_t>(timelines.users()), std::numeric_limits<std::int32_t>::max()) {
  if (scope == HistoryScope::all_earlier) return;
  for (std::int32_t user = 0; user < timelines.users(); ++user) {
    const auto rows = timelines.of(user);
    const auto end =
        std::find_if(rows.begin(), rows.end(), [&](std::int32_t row) { return splits[static_cast<std::size_t>(row)] != Split::train; });
    known_[static_cast<std::size_t>(user)] = static_cast<std::int32_t>(end - rows.begin());
  }
}

std::span<const std::int32_t> Histories::before(std::int32_t user, std::int32_t row, std::int32_t most) const {
  const std::int32_t end = std::min(timelines_.earlier(row), known_[static_cast<std::size_t>(user)]);
  const std::int32_t length = std::min(end, most);
  return timelines_.of(user).subspan(static_cast<std::size_t>(end - length), static_cast<std::size_t>(length));
}

}  // namespace expctr
