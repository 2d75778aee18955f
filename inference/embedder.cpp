#include "inference/embedder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/ops/embedding.h"
#include "engine/ops/reduce.h"

namespace expctr {

Pooling parse_pooling(std::string_view name) {
  if (name == "mean") return Pooling::mean;
  if (name == "cls") return Pooling::cls;
  throw UsageError(fmt::format("unknown pooling '{}'", name), "mean or cls");
}

Embedder::Embedder(const std::filesystem::path& folder, Device device, ComputeMode mode)
    : encoder_(TextEncoder::load(folder, device, mode)), tokenizer_(load_tokenizer(folder)) {
  if (tokenizer_->vocabulary() > encoder_.config().vocabulary) {
    throw InputError(fmt::format("{}: the tokeniser has {} word pieces, the encoder {}", folder.string(), tokenizer_->vocabulary(),
                                 encoder_.config().vocabulary),
                     "tokenizer.json and model.safetensors belong to different models");
  }
}

std::vector<std::int32_t> Embedder::pieces(std::string_view text, std::int64_t max_pieces) const {
  std::vector<std::int32_t> ids = tokenizer_->encode(text, true);
  const std::int64_t ends = std::ssize(tokenizer_->with_ends({}));
  const std::int64_t most = std::min(max_pieces, encoder_.config().positions) - ends;
  if (most < 0)
    throw UsageError(fmt::format("at most {} word pieces a text leave no room for the {} that mark its ends", max_pieces, ends));
  if (std::ssize(ids) > most) ids.resize(static_cast<std::size_t>(most));
  return tokenizer_->with_ends(std::move(ids));
}

Tensor Embedder::operator()(std::span<const std::string> texts, const EmbedOptions& options) const {
  std::vector<std::vector<std::int32_t>> sequences;
  sequences.reserve(texts.size());
  for (const std::string& text : texts) sequences.push_back(pieces(text, options.max_pieces));
  return of_pieces(sequences, options);
}

Tensor Embedder::of_pieces(const std::vector<std::vector<std::int32_t>>& pieces, const EmbedOptions& options) const {
  const NoGradient off;
  const std::int64_t texts = std::ssize(pieces), width = this->width();
  Tensor result = Tensor::zeros({texts, width});
  std::vector<std::size_t> order(pieces.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return pieces[a].size() > pieces[b].size(); });

  for (std::size_t begin = 0; begin < order.size();) {
    std::vector<std::vector<std::int32_t>> batch;
    std::size_t end = begin;
    for (std::int64_t total = 0; end < order.size(); ++end) {
      total += std::ssize(pieces[order[end]]);
      if (end > begin && total > options.batch_pieces) break;
      batch.push_back(pieces[order[end]]);
    }
    const PackedPieces packed = pack_pieces(batch, encoder_.device());
    Tensor pooled;
    if (options.pooling == Pooling::mean) {
      pooled = encoder_.mean_pooled(packed);
    } else {
      const Tensor hidden = encoder_.hidden(encoder_.word_embeddings(packed), packed);
      pooled = gather(hidden, packed.offsets.slice_rows(0, std::ssize(batch)));
    }
    const auto values = pooled.to(cpu_device).to_vector<float>();
    for (std::size_t i = begin; i < end; ++i) {
      float* row = static_cast<float*>(result.data()) + static_cast<std::int64_t>(order[i]) * width;
      std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(i - begin) * width, width, row);
      if (!options.normalise) continue;
      double squares = 0.0;
      for (std::int64_t c = 0; c < width; ++c) squares += static_cast<double>(row[c]) * row[c];
      const double scale = squares > 0.0 ? 1.0 / std::sqrt(squares) : 0.0;
      for (std::int64_t c = 0; c < width; ++c) row[c] = static_cast<float>(row[c] * scale);
    }
    begin = end;
  }
  return result;
}

}  // namespace expctr
