// Sentence embeddings: texts meet a tokeniser and a text encoder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/tokenizer/tokenizer.h"
#include "models/text_encoder/text_encoder.h"

namespace expctr {

enum class Pooling { mean, cls };
/// "mean" or "cls". Throws UsageError.
Pooling parse_pooling(std::string_view name);

struct EmbedOptions {
  Pooling pooling = Pooling::mean;   ///< over all word pieces, [CLS] and [SEP] included, or the first one
  bool normalise = false;            ///< to length 1
  std::int64_t max_pieces = 128;     ///< longer texts keep their first max_pieces - 2 pieces between [CLS] and [SEP]
  std::int64_t batch_pieces = 4096;  ///< word pieces of one pass: bounds the memory, changes no bit
};

class Embedder {
 public:
  /// A Hugging Face folder with config.json, model.safetensors and tokenizer.json. Throws InputError.
  explicit Embedder(const std::filesystem::path& folder, Device device = {}, ComputeMode mode = ComputeMode::f32);

  /// [texts, width] f32 on the CPU. Texts that spell special tokens ("[SEP]") become them, as in the tokenizers library, so that vectors
  /// equal the published ones.
  Tensor operator()(std::span<const std::string> texts, const EmbedOptions& options = {}) const;
  /// The same from word pieces, begin and end tokens included; max_pieces is not applied.
  Tensor of_pieces(const std::vector<std::vector<std::int32_t>>& pieces, const EmbedOptions& options = {}) const;
  /// Word pieces of a text as operator() cuts them.
  std::vector<std::int32_t> pieces(std::string_view text, std::int64_t max_pieces) const;

  const TextEncoder& encoder() const { return encoder_; }
  std::int64_t width() const { return encoder_.config().width; }

 private:
  TextEncoder encoder_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

}  // namespace expctr
