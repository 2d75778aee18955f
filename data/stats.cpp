#include "data/stats.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "data/movielens.h"

namespace expctr {

nlohmann::json data_stats(const std::filesystem::path& path, const LabelRule& rule, InteractionColumns columns) {
  const auto start = std::chrono::steady_clock::now();
  columns.require_rating = columns.require_time = false;
  const Interactions data = load_interactions(interaction_file(path), columns);
  nlohmann::json positive_share, first_time, last_time;
  if (!data.rating.empty()) {
    const auto labels = labels_of(data, rule);
    positive_share = static_cast<double>(std::count(labels.begin(), labels.end(), 1)) / static_cast<double>(labels.size());
  }
  if (!data.time.empty()) {
    const auto [first, last] = std::minmax_element(data.time.begin(), data.time.end());
    const auto number = [](double time) {
      const bool whole = std::abs(time) < 9e15 && time == std::floor(time);
      return whole ? nlohmann::json(static_cast<std::int64_t>(time)) : nlohmann::json(time);
    };
    first_time = number(*first);
    last_time = number(*last);
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return {{"rows", data.rows()},
          {"users", data.users.size()},
          {"items", data.items.size()},
          {"positive_share", positive_share},
          {"first_time", first_time},
          {"last_time", last_time},
          {"skipped", 0},  // a faulty row is an error, never left out
          {"seconds", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()},
          {"peak_bytes", static_cast<std::int64_t>(usage.ru_maxrss) * 1024},
          {"warnings", data.warnings}};
}

}  // namespace expctr
