#include "data/bias_model.h"

#include "base/error.h"

namespace expctr {

BiasModel::BiasModel(const Interactions& data, const std::vector<std::uint8_t>& labels, std::span<const std::int32_t> rows, double damping)
    : item_(static_cast<std::size_t>(data.items.size()), 0.0), user_(static_cast<std::size_t>(data.users.size()), 0.0) {
  if (rows.empty()) throw UsageError("the bias model has no rows to fit", "is the training split empty?");
  for (const std::int32_t row : rows) mean_ += labels[static_cast<std::size_t>(row)];
  mean_ /= static_cast<double>(rows.size());
  const auto damped = [&](std::vector<double>& bias, const std::vector<std::int32_t>& id, auto&& residual) {
    std::vector<double> count(bias.size(), damping);
    for (const std::int32_t row : rows) {
      const auto index = static_cast<std::size_t>(id[static_cast<std::size_t>(row)]);
      bias[index] += residual(static_cast<std::size_t>(row));
      count[index] += 1;
    }
    for (std::size_t i = 0; i < bias.size(); ++i)
      if (bias[i] != 0) bias[i] /= count[i];
  };
  damped(item_, data.item, [&](std::size_t row) { return labels[row] - mean_; });
  damped(user_, data.user, [&](std::size_t row) { return labels[row] - mean_ - item_[static_cast<std::size_t>(data.item[row])]; });
}

}  // namespace expctr
