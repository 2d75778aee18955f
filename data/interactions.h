// The table of logged interactions: who rated what, how, and when. Ids are text; rows refer to them by dense numbers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/atomic_file.h"

namespace expctr {

/// One kind of id (users or items): text <-> dense number in order of first appearance.
class IdTable {
 public:
  std::int32_t add(std::string_view id);         ///< the number of this id, new or known
  std::int32_t find(std::string_view id) const;  ///< -1 when unknown
  std::int32_t size() const { return static_cast<std::int32_t>(texts_.size()); }
  const std::string& text(std::int32_t index) const { return texts_[static_cast<std::size_t>(index)]; }
  /// What hashes (specs/README.md, section 3): the number in the file when the id is one, else FNV-1a 64 of its bytes.
  std::uint64_t key(std::int32_t index) const { return keys_[static_cast<std::size_t>(index)]; }
  /// Order that breaks ties: numbers by value, before texts by bytes.
  bool less(std::int32_t a, std::int32_t b) const;

 private:
  std::vector<std::string> texts_;
  std::vector<std::uint64_t> keys_;
  std::vector<bool> numeric_;
  std::unordered_map<std::string, std::int32_t> index_;
};

/// A plain decimal number of at most 64 bits without leading zeros, so that no two texts give the same number.
bool is_numeric_id(std::string_view id, std::uint64_t& value);

struct Interactions {
  IdTable users, items;
  std::vector<std::int32_t> user, item;  ///< [rows]
  std::vector<float> rating;             ///< [rows]; empty when the file has none
  std::vector<double> time;              ///< [rows], seconds as in the file; empty when the file has none
  std::vector<std::string> warnings;     ///< one line each, for the console

  std::int64_t rows() const { return static_cast<std::int64_t>(user.size()); }
};

struct InteractionColumns {
  std::string user = "user_id", item = "item_id", rating = "rating", time = "timestamp";
  bool require_rating = true, require_time = true;
};

/// Reads `.inter` or, when the name ends in `u.data`, MovieLens' headerless TAB file. All rows are kept, repeated pairs too;
/// warnings tell of repeats, times before 1970 and mixed units of time. Errors: AtomicReader's, and a missing column.
Interactions load_interactions(const std::filesystem::path& path, const InteractionColumns& columns = {});
Interactions read_interactions(AtomicReader& reader, const InteractionColumns& columns);

/// Data without time (expctr.md, section 3): time = position of the row in a per-user shuffle that depends on seed and ids only.
void order_without_time(Interactions& data, std::uint64_t seed);

/// When a rating counts as liked: "rating >= 4", "rating > 3", also <, <=, ==.
class LabelRule {
 public:
  /// Errors (UsageError): anything that is not `rating OPERATOR NUMBER`.
  explicit LabelRule(std::string_view rule = "rating >= 4");
  bool operator()(double rating) const;
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  std::string operator_;
  double threshold_ = 0;
};

/// 0 or 1 per row. Errors: the table has no ratings.
std::vector<std::uint8_t> labels_of(const Interactions& data, const LabelRule& rule);

}  // namespace expctr
