#include "models/text_encoder/text_encoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "engine/ops/attention.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/embedding.h"
#include "engine/ops/norm.h"
#include "engine/ops/reduce.h"

namespace expctr {

PackedPieces pack_pieces(const std::vector<std::vector<std::int32_t>>& sequences, Device device) {
  std::vector<std::int32_t> ids, positions, offsets{0};
  for (const auto& sequence : sequences) {
    for (std::size_t i = 0; i < sequence.size(); ++i) positions.push_back(static_cast<std::int32_t>(i));
    ids.insert(ids.end(), sequence.begin(), sequence.end());
    offsets.push_back(static_cast<std::int32_t>(ids.size()));
  }
  return {Tensor::of(ids, {std::ssize(ids)}, device), Tensor::of(positions, {std::ssize(positions)}, device),
          Tensor::of(offsets, {std::ssize(offsets)}, device)};
}

Tensor TextEncoder::word_embeddings(const PackedPieces& pieces) const {
  for (const std::int32_t id : pieces.ids.to_vector<std::int32_t>()) {
    if (id < 0 || id >= config_.vocabulary) {
      throw Error(fmt::format("text encoder: word piece {} is not in the vocabulary of {}", id, config_.vocabulary),
                  "use the tokeniser that came with the model");
    }
  }
  return gather(word_, pieces.ids);
}

Tensor TextEncoder::normalised(const Tensor& x, const Norm& norm) const {
  return layer_norm(x, norm.gain, norm.bias, config_.layer_norm_epsilon);
}

Tensor TextEncoder::hidden(const Tensor& words, const PackedPieces& pieces) const {
  require_shape("text encoder", "words", words, {pieces.ids.dim(0), config_.width});
  const auto positions = pieces.positions.to_vector<std::int32_t>();
  if (const auto longest = std::max_element(positions.begin(), positions.end());
      longest != positions.end() && *longest >= config_.positions) {
    throw ShapeError(fmt::format("text encoder: a sequence of {} word pieces, the model has {} positions", *longest + 1, config_.positions),
                     "cut the texts");
  }
  const AttentionShape shape{static_cast<int>(config_.heads), static_cast<int>(config_.heads), static_cast<int>(config_.head_width()),
                             false, 1.0 / std::sqrt(static_cast<double>(config_.head_width()))};
  const Tensor places = add(gather(position_, pieces.positions), type_.slice_rows(0, 1));
  Tensor x = normalised(add(words, places), embedding_norm_);
  for (const Block& block : blocks_) {
    const Tensor mixed = attention(block.query(x), block.key(x), block.value(x), pieces.offsets, shape);
    x = normalised(add(block.attention_output(mixed), x), block.attention_norm);
    x = normalised(add(block.output(gelu(block.intermediate(x))), x), block.output_norm);
  }
  return x;
}

Tensor TextEncoder::mean_pooled(const PackedPieces& pieces) const {
  return segment_mean(hidden(word_embeddings(pieces), pieces), pieces.offsets);
}

std::vector<NamedTensor> TextEncoder::weights() const {
  std::vector<NamedTensor> result{
      {"word", word_}, {"position", position_}, {"type", type_}, {"norm.gain", embedding_norm_.gain}, {"norm.bias", embedding_norm_.bias}};
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const Block& block = blocks_[i];
    const auto linear = [&](const char* name, const Linear& layer) {
      result.push_back({fmt::format("{}.{}.weight", i, name), layer.frozen_weight().memory()});
      result.push_back({fmt::format("{}.{}.bias", i, name), layer.bias()});
    };
    const auto norm = [&](const char* name, const Norm& of) {
      result.push_back({fmt::format("{}.{}.gain", i, name), of.gain});
      result.push_back({fmt::format("{}.{}.bias", i, name), of.bias});
    };
    linear("query", block.query);
    linear("key", block.key);
    linear("value", block.value);
    linear("attention_output", block.attention_output);
    norm("attention_norm", block.attention_norm);
    linear("intermediate", block.intermediate);
    linear("output", block.output);
    norm("output_norm", block.output_norm);
  }
  return result;
}

}  // namespace expctr
