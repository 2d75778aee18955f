// The rows of ExpCTR's jobs: pairs of a user and an item with label, split, fold and policy, and samples of them.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string_view>
#include <vector>

#include "data/folds.h"
#include "data/movielens.h"
#include "data/prompts.h"
#include "data/split.h"

namespace expctr {

struct Pair {
  std::int32_t row = 0, user = 0, item = 0;  ///< of the dataset's tables
  double time = 0;
  int label = 0;
  Split split = Split::train;
  int fold = scorer_fold;  ///< scorer_fold, or 0 .. K-1
  int policy = 0;          ///< who explains it
};

struct PairOptions {
  DatasetOptions dataset;
  std::string label_rule = "rating >= 4";
  SplitOptions split;
  HistoryScope scope = HistoryScope::all_earlier;
  FoldOptions folds;
  PromptOptions prompt;
};

/// A dataset with everything that is decided per row. Movable; the views it hands out live as long as it does.
class PairData {
 public:
  PairData(Dataset dataset, const PairOptions& options);

  const Dataset& dataset() const { return *dataset_; }
  const Timelines& timelines() const { return *timelines_; }
  const Histories& histories() const { return *histories_; }
  const std::vector<std::uint8_t>& labels() const { return labels_; }
  const std::vector<Split>& splits() const { return splits_; }
  const PairOptions& options() const { return options_; }

  std::int64_t rows() const { return static_cast<std::int64_t>(labels_.size()); }
  Pair pair(std::int32_t row) const;
  /// Row of the last interaction of this user with this item; nullopt when there is none.
  std::optional<std::int32_t> find(std::int32_t user, std::int32_t item) const;
  /// Not yet cut to the token budget (fit_context).
  PromptContext context(const Pair& pair) const { return prompt_context(*dataset_, *histories_, labels_, pair.row, options_.prompt); }
  /// The context of a pair nobody logged: all rows of the user are known.
  PromptContext context_now(std::int32_t user, std::int32_t item) const;

 private:
  PairOptions options_;
  std::unique_ptr<Dataset> dataset_;  // on the heap: histories refer to what does not move
  std::unique_ptr<Timelines> timelines_;
  std::vector<std::uint8_t> labels_;
  std::vector<Split> splits_;
  std::vector<FoldAssignment> folds_;
  std::unique_ptr<Histories> histories_;
};

PairData load_pairs(const std::filesystem::path& path, const PairOptions& options);

struct PairFilter {
  Split split = Split::train;
  std::optional<int> fold = std::nullopt;  ///< scorer_fold, a fold, or any
};

/// All pairs that pass, by (user id, time, item id): never in an order that depends on the file.
std::vector<Pair> select_pairs(const PairData& data, const PairFilter& filter);

/// The `count` pairs of smallest hash, smallest first; all when there are fewer. The hash is a function of (seed, user id, item
/// id, time), so samples are nested: the first n of a larger sample are the sample of n.
std::vector<Pair> sample_pairs(const PairData& data, const PairFilter& filter, std::int64_t count, std::uint64_t seed);

/// {"uid","iid","label","liked","disliked","target","hist_iid","hist_rate","fields","split"} (expctr.md, section 3); uid and iid are the
/// ids of the file, hist_rate the ratings of the last `history` earlier rows.
nlohmann::json pair_json(const PairData& data, const Pair& pair, int history = 50);

}  // namespace expctr
