// Small random decoders of the Llama family, frozen, for tests that need a whole model but not a file.
#pragma once

#include <fmt/format.h>

#include "models/llm/decoder.h"
#include "models/parameters.h"

namespace expctr::test {

struct TinyShape {
  std::int64_t layers = 2, width = 32, heads = 4, kv_heads = 2, head_dim = 8, ffn_width = 64, vocabulary = 32, positions = 512;
  bool tied_head = true;
  double embedding_deviation = 0.6, weight_deviation = 0.25;
};

inline Decoder tiny_decoder(const TinyShape& shape, std::uint64_t seed, Device device = {}, ComputeMode mode = ComputeMode::f32) {
  DecoderConfig c;
  c.architecture = "llama";
  c.layers = shape.layers;
  c.width = shape.width;
  c.heads = shape.heads;
  c.kv_heads = shape.kv_heads;
  c.head_dim = shape.head_dim;
  c.ffn_width = shape.ffn_width;
  c.vocabulary = shape.vocabulary;
  c.positions = shape.positions;
  c.tied_head = shape.tied_head;
  const Initialiser init{seed, DType::f32, device};
  const auto linear = [&](const std::string& name, std::int64_t outputs, std::int64_t inputs) {
    return Linear::frozen(FrozenWeight(init.normal(name, {outputs, inputs}, shape.weight_deviation), mode));
  };
  const Tensor embedding = init.normal("embedding", {c.vocabulary, c.width}, shape.embedding_deviation);
  const Tensor gain = init.constant({c.width}, 1.0);
  std::vector<DecoderLayer> layers;
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string stem = fmt::format("layer {} ", i);
    DecoderLayer layer;
    layer.q = linear(stem + "q", c.heads * c.head_dim, c.width);
    layer.k = linear(stem + "k", c.kv_heads * c.head_dim, c.width);
    layer.v = linear(stem + "v", c.kv_heads * c.head_dim, c.width);
    layer.o = linear(stem + "o", c.width, c.heads * c.head_dim);
    layer.gate = linear(stem + "gate", c.ffn_width, c.width);
    layer.up = linear(stem + "up", c.ffn_width, c.width);
    layer.down = linear(stem + "down", c.width, c.ffn_width);
    layer.attention_norm = gain;
    layer.ffn_norm = gain;
    layers.push_back(std::move(layer));
  }
  const Linear head = c.tied_head ? Linear::frozen(FrozenWeight(embedding, mode)) : linear("head", c.vocabulary, c.width);
  return Decoder(c, embedding, std::move(layers), gain, head);
}

}  // namespace expctr::test
