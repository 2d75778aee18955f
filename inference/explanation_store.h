// Explanations on disk: one JSON line a pair, in a fixed order, continued after an interruption.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/io/durable_file.h"

namespace expctr {

/// One explanation of one pair. Which pair: `row` of the data set.
struct Explanation {
  std::int32_t row = 0;
  std::string text;
  std::vector<std::int32_t> tokens;
  double log_probability = 0.0;  ///< sum over the tokens
  double margin = 0.0, base_margin = 0.0;  ///< l_yes - l_no with and without the explanation
  double reward_lc = 0.0;
  int policy = -1;               ///< -1: the untrained base model
  std::uint64_t seed = 0;        ///< of sampling; greedy decoding does not use it
};

nlohmann::json explanation_json(const Explanation& explanation);
/// Throws InputError naming `where`.
Explanation explanation_from_json(const nlohmann::json& record, const std::string& where);

/// The explanations of one stage: append only; opened again it is cut to the last whole record.
class ExplanationStore {
 public:
  explicit ExplanationStore(const std::filesystem::path& path);
  bool has(std::int32_t row) const { return index_.contains(row); }
  const Explanation& of(std::int32_t row) const { return records_[index_.at(row)]; }
  const std::vector<Explanation>& records() const { return records_; }
  void append(Explanation explanation);
  void sync() { file_.sync(); }
  std::size_t size() const { return records_.size(); }

  /// Reads a store without opening it for writing.
  static std::vector<Explanation> read(const std::filesystem::path& path);

 private:
  AppendFile file_;
  std::vector<Explanation> records_;
  std::unordered_map<std::int32_t, std::size_t> index_;
};

}  // namespace expctr
