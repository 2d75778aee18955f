#include "data/folds.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "base/hash.h"

namespace expctr {

FoldAssignment assign_fold(std::uint64_t hash, const FoldOptions& options) {
  const double tenths = options.scorer_share * 10;
  if (options.folds < 1) throw UsageError(fmt::format("folds.k is {}", options.folds), "at least 1; 1 disables the leakage guard");
  if (!(tenths >= 0 && tenths < 9.5) || std::abs(tenths - std::round(tenths)) > 1e-6)
    throw UsageError(fmt::format("folds.scorer_share is {}", options.scorer_share), "a multiple of 0.1 from 0 to 0.9");
  const auto folds = static_cast<std::uint64_t>(options.folds);
  const auto part = static_cast<int>(hash / 10 % folds);
  if (hash % 10 < static_cast<std::uint64_t>(std::llround(tenths))) return {scorer_fold, part};
  return {part, (part + 1) % options.folds};
}

FoldAssignment fold_of(const Interactions& data, std::int32_t user, std::int32_t item, const FoldOptions& options) {
  std::uint64_t id = data.users.key(user);
  if (options.by_pair) id = splitmix64(id) + data.items.key(item);
  return assign_fold(splitmix64(options.seed + id), options);
}

std::vector<FoldAssignment> folds_of_rows(const Interactions& data, const FoldOptions& options) {
  std::vector<FoldAssignment> result(data.user.size());
  for (std::size_t row = 0; row < result.size(); ++row) result[row] = fold_of(data, data.user[row], data.item[row], options);
  return result;
}

}  // namespace expctr
