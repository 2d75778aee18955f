// What a decoder of the Llama family is made of, as its file says.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "engine/core/tensor.h"
#include "engine/io/gguf.h"

namespace expctr {

/// Scaling of rotary frequencies beyond the trained length.
struct RopeScaling {
  enum class Kind { none, linear, llama3, yarn } kind = Kind::none;
  double factor = 1.0;
  double low_frequency_factor = 1.0, high_frequency_factor = 4.0;  ///< llama3
  double beta_fast = 32.0, beta_slow = 1.0;                        ///< yarn
  double attention_factor = 0.0;                                   ///< yarn; 0: 0.1 ln(factor) + 1
  std::int64_t original_positions = 0;
};

struct DecoderConfig {
  std::string architecture;  ///< llama, qwen2, qwen3
  std::int64_t layers = 0, width = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn_width = 0, vocabulary = 0, positions = 0;
  double rope_base = 10000.0, norm_epsilon = 1e-5;
  RopeScaling rope_scaling;
  bool attention_bias = false, qk_norm = false, tied_head = false;
};

/// From the metadata of a GGUF file. Throws InputError for an architecture that is not supported, naming those that are.
DecoderConfig decoder_config_from_gguf(const GgufFile& file);
/// From config.json of a Hugging Face folder; takes rope_theta / rope_scaling at the top level as well as rope_parameters.
DecoderConfig decoder_config_from_folder(const std::filesystem::path& folder);

/// Frequencies [head_dim / 2] after scaling and the factor on cos and sin, in double.
/// Sources: Su et al. 2021; linear: Chen et al. 2023; llama3: Llama 3.1 reference code; yarn: Peng et al. 2023, in transformers' form.
struct RopeFrequencies {
  std::vector<double> inverse;
  double factor = 1.0;
};
RopeFrequencies rope_frequencies(const DecoderConfig& config);
/// Table [positions, head_dim]: cos in the first half, sin in the second; angles in double, once per position.
Tensor rope_table(const DecoderConfig& config, std::int64_t positions, DType dtype, Device device);

}  // namespace expctr
