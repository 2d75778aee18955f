// Order in time, splits and histories (specs/README.md section 3, expctr.md sections 3 and 9).
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "data/interactions.h"

namespace expctr {

enum class Split : std::uint8_t { train, valid, test };
const char* split_name(Split split);
/// Errors (UsageError): not train, valid or test.
Split parse_split(std::string_view name);

/// The rows of every user by (time, item id). A function of the rows alone, not of their order in the file, as long as no pair
/// repeats at the same time.
class Timelines {
 public:
  explicit Timelines(const Interactions& data);
  std::int32_t users() const { return static_cast<std::int32_t>(begin_.size()) - 1; }
  /// Rows of one user, oldest first.
  std::span<const std::int32_t> of(std::int32_t user) const;
  std::int64_t begin(std::int32_t user) const { return begin_[static_cast<std::size_t>(user)]; }
  std::span<const std::int32_t> rows() const { return rows_; }  ///< all users, one after the other
  /// Number of rows of the same user with a strictly smaller time.
  std::int32_t earlier(std::int32_t row) const { return earlier_[static_cast<std::size_t>(row)]; }

 private:
  std::vector<std::int64_t> begin_;    // [users + 1]
  std::vector<std::int32_t> rows_;     // [rows]
  std::vector<std::int32_t> earlier_;  // [rows]
};

struct SplitOptions {
  double test = 0.2, valid = 0.1;
};

/// Per user with n rows: test = the last floor(n test), validation = the floor(n valid) before them, the rest training.
/// Errors (UsageError): negative shares or a sum of 1 or more.
std::vector<Split> split_per_user_time(const Timelines& timelines, const SplitOptions& options = {});

enum class HistoryScope { all_earlier, train_only };
/// Errors (UsageError): another word.
HistoryScope parse_history_scope(std::string_view name);

/// What is known of a user when a row happens: rows with a strictly smaller time, the target and its ties left out.
/// With train_only these are a prefix too, since a user's training rows come first.
class Histories {
 public:
  Histories(const Timelines& timelines, const std::vector<Split>& splits, HistoryScope scope = HistoryScope::all_earlier);
  /// The last `most` rows, oldest first; a view into the timelines.
  std::span<const std::int32_t> before(std::int32_t user, std::int32_t row, std::int32_t most) const;

 private:
  const Timelines& timelines_;
  std::vector<std::int32_t> known_;  // [users]: how much of the timeline may be seen
};

}  // namespace expctr
