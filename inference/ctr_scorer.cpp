#include "inference/ctr_scorer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "models/ctr/din_batch.h"

namespace expctr {
namespace {

// The texts of a batch, each once, and who has which.
void set_text(DinBatch& batch, std::int64_t width, std::span<const float> values, std::span<const std::int32_t> of_row, DType dtype,
              Device device) {
  std::unordered_map<std::int32_t, std::int32_t> place;
  std::vector<std::int32_t> index(of_row.size(), -1);
  std::vector<float> used;
  for (std::size_t i = 0; i < of_row.size(); ++i) {
    if (of_row[i] < 0) continue;
    const auto [entry, fresh] = place.emplace(of_row[i], static_cast<std::int32_t>(place.size()));
    index[i] = entry->second;
    const std::size_t begin = static_cast<std::size_t>(of_row[i]) * static_cast<std::size_t>(width),
                      end = begin + static_cast<std::size_t>(width);
    if (end > values.size())
      throw Error(fmt::format("text {} of a batch: there are {} texts", of_row[i], values.size() / static_cast<std::size_t>(width)));
    if (fresh)
      used.insert(used.end(), values.begin() + static_cast<std::ptrdiff_t>(begin), values.begin() + static_cast<std::ptrdiff_t>(end));
  }
  if (place.empty()) return;
  const Shape shape{std::ssize(place), width};
  batch.text =
      dtype == DType::f64 ? Tensor::of(std::vector<double>(used.begin(), used.end()), shape, device) : Tensor::of(used, shape, device);
  batch.text_of_row = Tensor::of(index, {std::ssize(index)}, device);
}

}  // namespace

std::vector<std::int32_t> TextVectors::of(std::span<const std::int32_t> rows) const {
  std::vector<std::int32_t> result;
  if (of_row.empty()) return result;
  result.reserve(rows.size());
  for (const std::int32_t row : rows) result.push_back(of_row.at(static_cast<std::size_t>(row)));
  return result;
}

std::vector<CtrField> ctr_fields(const CtrFeatures& features) {
  const CtrVocabularies& v = features.vocabulary;
  return {{"user", v.user.size(), false},
          {"item", v.item.size(), true},
          {"age", v.age.size(), false},
          {"gender", v.gender.size(), false},
          {"occupation", v.occupation.size(), false},
          {"genres", v.genre.size(), true},
          {"year", v.year.size(), true}};
}

DinBatch din_batch(const CtrBatch& batch, const DinOptions& options, std::span<const float> text_values,
                   std::span<const std::int32_t> text_of_row, DType dtype, Device device) {
  if (!text_of_row.empty() && std::ssize(text_of_row) != batch.rows)
    throw ShapeError(fmt::format("{} texts for {} rows", text_of_row.size(), batch.rows));
  DinArrays arrays;
  arrays.rows = batch.rows;
  arrays.history = batch.history;
  arrays.fields = {{batch.user, 1},   {batch.item, 1},       {batch.age, 1},
                   {batch.gender, 1}, {batch.occupation, 1}, {batch.genres, batch.genres_width},
                   {batch.year, 1}};
  arrays.history_fields = {{batch.history_item, 1}, {batch.history_genres, batch.genres_width}, {batch.history_year, 1}};
  arrays.history_label = batch.history_label;
  arrays.sample_ids = batch.row;
  DinBatch result = make_din_batch(arrays, options, dtype, device);
  if (options.text_width > 0 && !text_of_row.empty()) set_text(result, options.text_width, text_values, text_of_row, dtype, device);
  return result;
}

std::vector<double> predict_clicks(const Din& model, const CtrDataset& dataset, std::span<const std::int32_t> rows,
                                   std::span<const float> text_values, std::span<const std::int32_t> text_of_row, std::int64_t batch) {
  const NoGradient off;
  std::vector<double> result;
  result.reserve(rows.size());
  CtrBatch ids;
  for (std::int64_t begin = 0; begin < std::ssize(rows); begin += batch) {
    const auto count = static_cast<std::size_t>(std::min(batch, std::ssize(rows) - begin));
    dataset.fill(rows.subspan(static_cast<std::size_t>(begin), count), ids);
    const auto texts = text_of_row.empty() ? text_of_row : text_of_row.subspan(static_cast<std::size_t>(begin), count);
    const DinOutput out = model.forward(din_batch(ids, model.options(), text_values, texts, model.dtype(), model.device()), {});
    const Tensor logit = out.logit.to(cpu_device);
    const auto add = [&](const auto& values) {
      for (const double value : values) result.push_back(1.0 / (1.0 + std::exp(-value)));
    };
    if (logit.dtype() == DType::f64) {
      add(logit.to_vector<double>());
    } else {
      add(logit.to_vector<float>());
    }
  }
  return result;
}

std::vector<double> predict_clicks(const Din& model, const CtrDataset& dataset, std::span<const std::int32_t> rows,
                                   const TextVectors& texts, std::int64_t batch) {
  const std::vector<std::int32_t> of_row = texts.of(rows);
  return predict_clicks(model, dataset, rows, texts.values, of_row, batch);
}

}  // namespace expctr
