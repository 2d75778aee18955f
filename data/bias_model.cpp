#include "data/bias_model.h"

#include "base/error.h"

namespace expctr {

BiasModel::BiasModel(const Interactions& data, const std::vector<std::uint8_t>& labels, std::span<const std::int32_t> rows, double damping)
    : item_(static_cast<std::size_t>(data.items.size()), 0.0), user_(static_cast<std::size_t>(data.users.size()), 0.0) {
  if (rows.empty()) throw UsageError("the bias model has no rows to fit", "is the training split empty?");
  // From whole counts, so that items with the same ratings tie exactly whatever the order of the rows.
  struct Count {
    std::int64_t rows = 0, positive = 0;
    double explained = 0;  // sum of the item biases under a user's rows
  };
  std::vector<Count> items(item_.size()), users(user_.size());
  std::int64_t positive = 0;
  for (const std::int32_t r : rows) {
    const auto row = static_cast<std::size_t>(r);
    for (Count* count : {&items[static_cast<std::size_t>(data.item[row])], &users[static_cast<std::size_t>(data.user[row])]}) {
      ++count->rows;
      count->positive += labels[row];
    }
    positive += labels[row];
  }
  mean_ = static_cast<double>(positive) / static_cast<double>(rows.size());
  const auto damped = [&](const Count& count) {
    const auto n = static_cast<double>(count.rows);
    return count.rows == 0 ? 0.0 : (static_cast<double>(count.positive) - n * mean_ - count.explained) / (n + damping);
  };
  for (std::size_t i = 0; i < items.size(); ++i) item_[i] = damped(items[i]);
  for (const std::int32_t r : rows) {
    const auto row = static_cast<std::size_t>(r);
    users[static_cast<std::size_t>(data.user[row])].explained += item_[static_cast<std::size_t>(data.item[row])];
  }
  for (std::size_t u = 0; u < users.size(); ++u) user_[u] = damped(users[u]);
}

}  // namespace expctr
