#include "data/pairs.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/hash.h"

namespace expctr {
namespace {

nlohmann::json id_json(const IdTable& ids, std::int32_t index) {
  std::uint64_t value = 0;
  if (is_numeric_id(ids.text(index), value)) return value;
  return ids.text(index);
}

bool in_id_order(const PairData& data, const Pair& a, const Pair& b) {
  const Interactions& table = data.dataset().interactions;
  if (a.user != b.user) return table.users.less(a.user, b.user);
  if (a.time != b.time) return a.time < b.time;
  if (a.item != b.item) return table.items.less(a.item, b.item);
  return a.row < b.row;
}

}  // namespace

PairData::PairData(Dataset dataset, const PairOptions& options)
    : options_(options),
      dataset_(std::make_unique<Dataset>(std::move(dataset))),
      labels_(labels_of(dataset_->interactions, LabelRule(options.label_rule))) {
  if (dataset_->interactions.time.empty()) order_without_time(dataset_->interactions, options.folds.seed);
  timelines_ = std::make_unique<Timelines>(dataset_->interactions);
  splits_ = split_per_user_time(*timelines_, options.split);
  folds_ = folds_of_rows(dataset_->interactions, options.folds);
  histories_ = std::make_unique<Histories>(*timelines_, splits_, options.scope);
}

PairData load_pairs(const std::filesystem::path& path, const PairOptions& options) {
  return PairData(load_movielens(path, options.dataset), options);
}

Pair PairData::pair(std::int32_t row) const {
  const auto r = static_cast<std::size_t>(row);
  const Interactions& table = dataset_->interactions;
  return {row, table.user[r], table.item[r], table.time[r], labels_[r], splits_[r], folds_[r].fold, folds_[r].policy};
}

std::optional<std::int32_t> PairData::find(std::int32_t user, std::int32_t item) const {
  const auto rows = timelines_->of(user);
  for (std::size_t i = rows.size(); i-- > 0;)
    if (dataset_->interactions.item[static_cast<std::size_t>(rows[i])] == item) return rows[i];
  return std::nullopt;
}

PromptContext PairData::context_now(std::int32_t user, std::int32_t item) const {
  return prompt_context(*dataset_, timelines_->of(user), labels_, item, options_.prompt);
}

std::vector<Pair> select_pairs(const PairData& data, const PairFilter& filter) {
  std::vector<Pair> result;
  for (std::int32_t row = 0; row < static_cast<std::int32_t>(data.rows()); ++row) {
    const Pair pair = data.pair(row);
    if (pair.split == filter.split && (!filter.fold || pair.fold == *filter.fold)) result.push_back(pair);
  }
  std::sort(result.begin(), result.end(), [&](const Pair& a, const Pair& b) { return in_id_order(data, a, b); });
  return result;
}

std::vector<Pair> sample_pairs(const PairData& data, const PairFilter& filter, std::int64_t count, std::uint64_t seed) {
  if (count < 0) throw UsageError(fmt::format("a sample of {} pairs", count), "the number of pairs is 0 or more");
  const Interactions& table = data.dataset().interactions;
  std::vector<std::pair<std::uint64_t, Pair>> keyed;
  for (const Pair& pair : select_pairs(data, filter)) {
    const std::uint64_t user = splitmix64(seed + table.users.key(pair.user));
    const std::uint64_t both = splitmix64(user + table.items.key(pair.item));
    keyed.emplace_back(splitmix64(both + std::bit_cast<std::uint64_t>(pair.time)), pair);
  }
  // Stable: equal hashes keep the order of ids.
  std::stable_sort(keyed.begin(), keyed.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<Pair> result;
  for (std::size_t i = 0; i < keyed.size() && static_cast<std::int64_t>(i) < count; ++i) result.push_back(keyed[i].second);
  return result;
}

nlohmann::json pair_json(const PairData& data, const Pair& pair, int history) {
  const Interactions& table = data.dataset().interactions;
  const PromptContext context = data.context(pair);
  const User& user = data.dataset().users[static_cast<std::size_t>(pair.user)];
  nlohmann::json history_items = nlohmann::json::array(), history_ratings = nlohmann::json::array();
  for (const std::int32_t row : data.histories().before(pair.user, pair.row, history)) {
    history_items.push_back(id_json(table.items, table.item[static_cast<std::size_t>(row)]));
    history_ratings.push_back(table.rating[static_cast<std::size_t>(row)]);
  }
  return {{"uid", id_json(table.users, pair.user)},
          {"iid", id_json(table.items, pair.item)},
          {"label", pair.label},
          {"liked", context.liked},
          {"disliked", context.disliked},
          {"target", context.target},
          {"hist_iid", std::move(history_items)},
          {"hist_rate", std::move(history_ratings)},
          {"fields",
           {{"age", age_bucket(user.age)},
            {"gender", user.gender},
            {"occupation", user.occupation},
            {"year", data.dataset().items[static_cast<std::size_t>(pair.item)].year}}},
          {"split", split_name(pair.split)}};
}

}  // namespace expctr
