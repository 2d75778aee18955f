// A frozen BERT-type text encoder: MiniLM, BGE, BERT. Post-LN blocks, GELU (erf), learned positions, bidirectional attention.
// Source: Devlin et al. 2019; names and defaults as in Hugging Face's BertModel.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "engine/nn/linear.h"
#include "models/named_tensor.h"

namespace expctr {

struct TextEncoderConfig {
  std::int64_t vocabulary = 0, width = 0, layers = 0, heads = 0, intermediate = 0, positions = 0, types = 0;
  double layer_norm_epsilon = 1e-12;
  std::int64_t head_width() const { return width / heads; }

  /// From config.json of a Hugging Face folder. Throws InputError for a file that describes no such model: a key missing or out of range,
  /// another activation than "gelu", relative positions.
  static TextEncoderConfig load(const std::filesystem::path& config_json);
};

/// Sequences of word pieces behind one another, without padding.
struct PackedPieces {
  Tensor ids;        ///< [pieces] i32
  Tensor positions;  ///< [pieces] i32, from 0 in each sequence
  Tensor offsets;    ///< [sequences + 1] i32
};
PackedPieces pack_pieces(const std::vector<std::vector<std::int32_t>>& sequences, Device device = {});

class TextEncoder {
 public:
  /// config.json and model.safetensors (or shards) of a folder. Strict: tensors that are missing, not expected, or of another shape than
  /// the configuration says are listed, and the folder is refused (InputError). Tolerated because embeddings do not need them: pooler.*,
  /// embeddings.position_ids. A prefix "bert." is known.
  static TextEncoder load(const std::filesystem::path& folder, Device device = {}, ComputeMode mode = ComputeMode::f32);

  const TextEncoderConfig& config() const { return config_; }
  Device device() const { return word_.device(); }

  /// Rows of the word-embedding table, [pieces, width]. Throws Error for ids outside the vocabulary.
  Tensor word_embeddings(const PackedPieces& pieces) const;
  /// Last hidden layer [pieces, width] from word embeddings, to which position and type embeddings are added here. Gradients pass to
  /// `words`. Throws ShapeError for a sequence longer than the model has positions.
  Tensor hidden(const Tensor& words, const PackedPieces& pieces) const;
  /// Mean of the last hidden layer over all pieces of a sequence, [CLS] and [SEP] included: [sequences, width].
  Tensor mean_pooled(const PackedPieces& pieces) const;

  /// All weights, for hashing; matrices in the packed form of the device.
  std::vector<NamedTensor> weights() const;

 private:
  struct Norm {
    Tensor gain, bias;
  };
  struct Block {
    Linear query, key, value, attention_output, intermediate, output;
    Norm attention_norm, output_norm;
  };
  friend class TextEncoderLoader;
  Tensor normalised(const Tensor& x, const Norm& norm) const;

  TextEncoderConfig config_;
  Tensor word_, position_, type_;  ///< [vocabulary, width], [positions, width], [types, width]
  Norm embedding_norm_;
  std::vector<Block> blocks_;
};

}  // namespace expctr
