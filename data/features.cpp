#include "data/features.h"

#include <algorithm>

namespace expctr {
namespace {

using Counts = std::unordered_map<std::string, std::int64_t>;

bool value_less(const std::string& a, const std::string& b) {
  std::uint64_t x = 0, y = 0;
  const bool a_numeric = is_numeric_id(a, x), b_numeric = is_numeric_id(b, y);
  if (a_numeric != b_numeric) return a_numeric;
  return a_numeric ? x < y : a < b;
}

}  // namespace

FieldVocabulary FieldVocabulary::build(const Counts& counts, std::int64_t min_count) {
  std::vector<std::pair<std::string, std::int64_t>> kept;
  for (const auto& [value, count] : counts)
    if (count >= std::max<std::int64_t>(min_count, 1) && !value.empty()) kept.emplace_back(value, count);
  std::sort(kept.begin(), kept.end(),
            [](const auto& a, const auto& b) { return a.second != b.second ? a.second > b.second : value_less(a.first, b.first); });
  FieldVocabulary result;
  for (auto& [value, count] : kept) {
    result.values_.push_back(value);
    result.ids_.emplace(std::move(value), static_cast<std::int32_t>(result.values_.size()));
  }
  return result;
}

std::int32_t FieldVocabulary::id(std::string_view value) const {
  const auto entry = ids_.find(std::string(value));
  return entry == ids_.end() ? unknown() : entry->second;
}

CtrFeatures build_features(const Dataset& data, const std::vector<Split>& splits, const FeatureOptions& options) {
  const Interactions& table = data.interactions;
  std::vector<std::int64_t> user_rows(data.users.size(), 0), item_rows(data.items.size(), 0);
  for (std::size_t row = 0; row < splits.size(); ++row)
    if (splits[row] == Split::train) {
      ++user_rows[static_cast<std::size_t>(table.user[row])];
      ++item_rows[static_cast<std::size_t>(table.item[row])];
    }
  Counts user, item, age, gender, occupation, genre, year;
  for (std::size_t u = 0; u < data.users.size(); ++u) {
    if (user_rows[u] == 0) continue;
    user[table.users.text(static_cast<std::int32_t>(u))] += user_rows[u];
    age[age_bucket(data.users[u].age)] += user_rows[u];
    gender[data.users[u].gender] += user_rows[u];
    occupation[data.users[u].occupation] += user_rows[u];
  }
  CtrFeatures features;
  for (std::size_t i = 0; i < data.items.size(); ++i) {
    features.genres_width = std::max(features.genres_width, static_cast<int>(data.items[i].genres.size()));
    if (item_rows[i] == 0) continue;
    item[table.items.text(static_cast<std::int32_t>(i))] += item_rows[i];
    year[data.items[i].year] += item_rows[i];
    for (const std::string& name : data.items[i].genres) genre[name] += item_rows[i];
  }
  CtrVocabularies& vocabulary = features.vocabulary;
  vocabulary.user = FieldVocabulary::build(user, options.min_count);
  vocabulary.item = FieldVocabulary::build(item, options.min_count);
  vocabulary.age = FieldVocabulary::build(age, options.min_count);
  vocabulary.gender = FieldVocabulary::build(gender, options.min_count);
  vocabulary.occupation = FieldVocabulary::build(occupation, options.min_count);
  vocabulary.genre = FieldVocabulary::build(genre, options.min_count);
  vocabulary.year = FieldVocabulary::build(year, options.min_count);

  for (std::size_t u = 0; u < data.users.size(); ++u) {
    features.user.push_back(vocabulary.user.id(table.users.text(static_cast<std::int32_t>(u))));
    features.age.push_back(vocabulary.age.id(age_bucket(data.users[u].age)));
    features.gender.push_back(vocabulary.gender.id(data.users[u].gender));
    features.occupation.push_back(vocabulary.occupation.id(data.users[u].occupation));
  }
  const auto width = static_cast<std::size_t>(features.genres_width);
  features.genres.assign(data.items.size() * width, 0);
  for (std::size_t i = 0; i < data.items.size(); ++i) {
    features.item.push_back(vocabulary.item.id(table.items.text(static_cast<std::int32_t>(i))));
    features.year.push_back(vocabulary.year.id(data.items[i].year));
    for (std::size_t g = 0; g < data.items[i].genres.size(); ++g)
      features.genres[i * width + g] = vocabulary.genre.id(data.items[i].genres[g]);
  }
  return features;
}

}  // namespace expctr
