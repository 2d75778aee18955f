// Vocabularies of categorical fields and the per-item and per-user feature tables of click prediction.
// Source: FuxiCTR's convention, specs/ctr-models.md section 1.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/movielens.h"
#include "data/split.h"

namespace expctr {

/// Ids of the values of one field: 0 = padding, 1.. by descending training frequency (ties: numbers by value, then texts by
/// bytes), the last id = out of vocabulary, which also takes values seen fewer than `min_count` times.
class FieldVocabulary {
 public:
  /// Counts are those of the training rows; values with count 0 stay out.
  static FieldVocabulary build(const std::unordered_map<std::string, std::int64_t>& counts, std::int64_t min_count = 1);
  std::int32_t id(std::string_view value) const;
  std::int32_t size() const { return static_cast<std::int32_t>(values_.size()) + 2; }  ///< rows of an embedding table
  std::int32_t unknown() const { return size() - 1; }
  /// The value of an id in 1 .. size-2.
  const std::string& value(std::int32_t id) const { return values_[static_cast<std::size_t>(id) - 1]; }

 private:
  std::vector<std::string> values_;
  std::unordered_map<std::string, std::int32_t> ids_;
};

struct CtrVocabularies {
  FieldVocabulary user, item, age, gender, occupation, genre, year;
};

struct FeatureOptions {
  std::int64_t min_count = 1;
};

/// Fields user, item, age bucket, gender, occupation, genres (multi-hot) and year as ids. A field's value counts once for every
/// training row that carries it. Empty values are out of vocabulary; an item without genres has none (all padding).
struct CtrFeatures {
  CtrVocabularies vocabulary;
  int genres_width = 1;                                     ///< most genres of one item
  std::vector<std::int32_t> user, age, gender, occupation;  ///< [users of the dataset]
  std::vector<std::int32_t> item, year;                     ///< [items of the dataset]
  std::vector<std::int32_t> genres;                         ///< [items, genres_width], padded with 0
};

CtrFeatures build_features(const Dataset& data, const std::vector<Split>& splits, const FeatureOptions& options = {});

}  // namespace expctr
