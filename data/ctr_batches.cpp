#include "data/ctr_batches.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/philox.h"

namespace expctr {

BatchOrder::BatchOrder(std::uint64_t seed, std::uint32_t epoch, std::int64_t rows) {
  if (rows < 0 || rows > std::numeric_limits<std::int32_t>::max())
    throw UsageError(fmt::format("an epoch of {} rows", rows), "between 0 and 2147483647 rows");
  indices_.resize(static_cast<std::size_t>(rows));
  std::iota(indices_.begin(), indices_.end(), 0);
  const RandomKey key = random_key(seed, "batch order");
  for (std::size_t i = indices_.size(); i > 1; --i) {
    const RandomBits bits = philox(key, {epoch, static_cast<std::uint32_t>(i), 0, 0});
    // Upper bits of a 64-bit product: unbiased to 2^-33, and no loop whose length depends on the numbers drawn.
    const std::uint64_t wide = (std::uint64_t{bits.word[0]} << 32) | bits.word[1];
    const auto j = static_cast<std::size_t>((static_cast<unsigned __int128>(wide) * i) >> 64);
    std::swap(indices_[i - 1], indices_[j]);
  }
}

std::int64_t BatchOrder::batches(std::int64_t batch) const { return (static_cast<std::int64_t>(indices_.size()) + batch - 1) / batch; }

std::span<const std::int32_t> BatchOrder::batch(std::int64_t index, std::int64_t batch) const {
  const auto size = static_cast<std::int64_t>(indices_.size());
  const std::int64_t begin = std::min(index * batch, size), end = std::min(begin + batch, size);
  return std::span(indices_).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
}

CtrDataset::CtrDataset(const Dataset& data, const CtrFeatures& features, const Timelines& timelines, const std::vector<Split>& splits,
                       const std::vector<std::uint8_t>& labels, const CtrDatasetOptions& options)
    : options_(options),
      genres_width_(features.genres_width),
      user_(data.interactions.user),
      item_(data.interactions.item),
      label_(labels),
      user_id_(features.user),
      age_(features.age),
      gender_(features.gender),
      occupation_(features.occupation),
      item_id_(features.item),
      year_(features.year),
      genres_(features.genres) {
  if (options.history < 1) throw UsageError(fmt::format("data.history.max is {}", options.history), "at least 1");
  const Histories histories(timelines, splits, options.scope);
  const auto order = timelines.rows();
  timeline_item_.resize(order.size());
  timeline_label_.resize(order.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    const auto row = static_cast<std::size_t>(order[i]);
    timeline_item_[i] = item_[row];
    timeline_label_[i] = labels[row] != 0 ? 2 : 1;
  }
  history_begin_.resize(order.size());
  history_length_.resize(order.size());
  for (std::size_t row = 0; row < order.size(); ++row) {
    const auto window = histories.before(user_[row], static_cast<std::int32_t>(row), options.history);
    history_begin_[row] = static_cast<std::int32_t>(window.data() - order.data());
    history_length_[row] = static_cast<std::int32_t>(window.size());
    split_rows_[static_cast<std::size_t>(splits[row])].push_back(static_cast<std::int32_t>(row));
  }
}

void CtrDataset::fill(std::span<const std::int32_t> rows, CtrBatch& batch) const {
  const auto count = rows.size(), history = static_cast<std::size_t>(options_.history), width = static_cast<std::size_t>(genres_width_);
  batch.rows = static_cast<std::int32_t>(count);
  batch.history = options_.history;
  batch.genres_width = genres_width_;
  batch.row.assign(rows.begin(), rows.end());
  for (auto* column : {&batch.user, &batch.age, &batch.gender, &batch.occupation, &batch.item, &batch.year, &batch.history_length})
    column->resize(count);
  batch.label.resize(count);
  batch.genres.resize(count * width);
  for (auto* column : {&batch.history_item, &batch.history_year, &batch.history_label}) column->assign(count * history, 0);
  batch.history_genres.assign(count * history * width, 0);
  for (std::size_t i = 0; i < count; ++i) {
    const auto row = static_cast<std::size_t>(rows[i]);
    const auto user = static_cast<std::size_t>(user_[row]), item = static_cast<std::size_t>(item_[row]);
    batch.user[i] = user_id_[user];
    batch.age[i] = age_[user];
    batch.gender[i] = gender_[user];
    batch.occupation[i] = occupation_[user];
    batch.item[i] = item_id_[item];
    batch.year[i] = year_[item];
    batch.label[i] = label_[row];
    batch.history_length[i] = history_length_[row];
    std::copy_n(&genres_[item * width], width, &batch.genres[i * width]);
    const auto length = static_cast<std::size_t>(history_length_[row]);
    for (std::size_t k = 0; k < length; ++k) {
      const auto source = static_cast<std::size_t>(history_begin_[row]) + k;
      const auto earlier = static_cast<std::size_t>(timeline_item_[source]);
      const std::size_t target = i * history + history - length + k;
      batch.history_item[target] = item_id_[earlier];
      batch.history_year[target] = year_[earlier];
      batch.history_label[target] = timeline_label_[source];
      std::copy_n(&genres_[earlier * width], width, &batch.history_genres[target * width]);
    }
  }
}

}  // namespace expctr
