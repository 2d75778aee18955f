// The leakage guard of ExpCTR (expctr.md, section 4): who trains the scorer, who trains which policy, who explains whom.
#pragma once

#include <cstdint>
#include <vector>

#include "data/interactions.h"

namespace expctr {

struct FoldOptions {
  std::uint64_t seed = 2024;
  int folds = 2;              ///< K; 1 disables the guard
  double scorer_share = 0.2;  ///< of users, in tenths
  bool by_pair = false;       ///< partition pairs instead of users
};

constexpr int scorer_fold = -1;

struct FoldAssignment {
  int fold = scorer_fold;  ///< scorer_fold, or 0 .. K-1
  int policy = 0;          ///< the policy that writes its explanations
};

/// With h = splitmix64(seed + id): h mod 10 < 10 scorer_share -> scorer share, explained by policy (h div 10) mod K;
/// otherwise fold f = (h div 10) mod K, explained by policy (f + 1) mod K.
/// Errors (UsageError): K < 1, a share that is not a whole number of tenths below 1.
FoldAssignment assign_fold(std::uint64_t hash, const FoldOptions& options);

/// The assignment of a user and an item, logged together or not.
FoldAssignment fold_of(const Interactions& data, std::int32_t user, std::int32_t item, const FoldOptions& options);

/// One assignment per row. By user: hash of the user's key. By pair: id = splitmix64(user key) + item key.
std::vector<FoldAssignment> folds_of_rows(const Interactions& data, const FoldOptions& options);

}  // namespace expctr
