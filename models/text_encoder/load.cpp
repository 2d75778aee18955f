// Reading a TextEncoder from a Hugging Face folder.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>

#include "base/error.h"
#include "engine/io/checked_json.h"
#include "engine/io/dequantise.h"
#include "engine/io/mapped_file.h"
#include "engine/io/safetensors.h"
#include "models/text_encoder/text_encoder.h"

namespace expctr {
namespace {

std::int64_t positive_integer(const nlohmann::json& config, const char* key, const std::string& file) {
  constexpr std::int64_t most = std::int64_t{1} << 24;  // products of two stay far from overflow
  const auto at = config.find(key);
  if (at == config.end() || !at->is_number_integer() || at->get<double>() < 1 || at->get<double>() > static_cast<double>(most)) {
    throw InputError(fmt::format("{}: '{}' is {}, expected an integer from 1 to {}", file, key,
                                 at == config.end() ? "missing" : at->dump().substr(0, 80), most),
                     "this is not the config.json of a BERT-type encoder; a sentence-transformers folder keeps another one for its pooling "
                     "in 1_Pooling/");
  }
  return at->get<std::int64_t>();
}

void require_text(const nlohmann::json& config, const char* key, const char* wanted, const std::string& file) {
  const auto at = config.find(key);
  if (at != config.end() && *at != wanted) {
    throw InputError(fmt::format("{}: '{}' is {}, expected \"{}\"", file, key, at->dump().substr(0, 80), wanted),
                     "only this form is supported");
  }
}

}  // namespace

TextEncoderConfig TextEncoderConfig::load(const std::filesystem::path& config_json) {
  const std::string file = config_json.string();
  const MappedFile mapped(config_json);
  const nlohmann::json config =
      parse_checked_json(std::string_view(reinterpret_cast<const char*>(mapped.bytes().data()), mapped.bytes().size()), file, 32);
  if (!config.is_object()) throw InputError(file + ": not a JSON object");
  require_text(config, "hidden_act", "gelu", file);
  require_text(config, "position_embedding_type", "absolute", file);
  TextEncoderConfig result;
  result.vocabulary = positive_integer(config, "vocab_size", file);
  result.width = positive_integer(config, "hidden_size", file);
  result.layers = positive_integer(config, "num_hidden_layers", file);
  result.heads = positive_integer(config, "num_attention_heads", file);
  result.intermediate = positive_integer(config, "intermediate_size", file);
  result.positions = positive_integer(config, "max_position_embeddings", file);
  result.types = positive_integer(config, "type_vocab_size", file);
  if (result.width % result.heads != 0)
    throw InputError(fmt::format("{}: {} heads do not divide the width {}", file, result.heads, result.width));
  if (const auto at = config.find("layer_norm_eps"); at != config.end()) {
    if (!at->is_number() || !(at->get<double>() > 0.0) || !std::isfinite(at->get<double>()))
      throw InputError(fmt::format("{}: 'layer_norm_eps' is {}", file, at->dump().substr(0, 80)));
    result.layer_norm_epsilon = at->get<double>();
  }
  return result;
}

/// Reads tensors, notes complaints, and keeps account of what was expected.
class TextEncoderLoader {
 public:
  TextEncoderLoader(const std::filesystem::path& folder, Device device, ComputeMode mode)
      : folder_(folder), device_(device), mode_(mode), file_(SafetensorsFile::open(folder)) {
    const auto has_prefix = [](const TensorInfo& tensor) { return tensor.name.starts_with("bert."); };
    if (std::ranges::any_of(file_.tensors(), has_prefix)) prefix_ = "bert.";
  }

  TextEncoder load() {
    TextEncoder encoder;
    encoder.config_ = TextEncoderConfig::load(folder_ / "config.json");
    const TextEncoderConfig& c = encoder.config_;
    // Layers beyond what the file can hold: refuse before reading the rest.
    if (c.layers > std::ssize(file_.tensors()))
      throw InputError(fmt::format("{}: {} layers, but only {} tensors in the file", folder_.string(), c.layers, file_.tensors().size()));
    encoder.word_ = tensor("embeddings.word_embeddings.weight", {c.vocabulary, c.width});
    encoder.position_ = tensor("embeddings.position_embeddings.weight", {c.positions, c.width});
    encoder.type_ = tensor("embeddings.token_type_embeddings.weight", {c.types, c.width});
    encoder.embedding_norm_ = norm("embeddings.LayerNorm", c.width);
    for (std::int64_t i = 0; i < c.layers; ++i) {
      const std::string layer = fmt::format("encoder.layer.{}.", i);
      TextEncoder::Block block;
      block.query = linear(layer + "attention.self.query", c.width, c.width);
      block.key = linear(layer + "attention.self.key", c.width, c.width);
      block.value = linear(layer + "attention.self.value", c.width, c.width);
      block.attention_output = linear(layer + "attention.output.dense", c.width, c.width);
      block.attention_norm = norm(layer + "attention.output.LayerNorm", c.width);
      block.intermediate = linear(layer + "intermediate.dense", c.intermediate, c.width);
      block.output = linear(layer + "output.dense", c.width, c.intermediate);
      block.output_norm = norm(layer + "output.LayerNorm", c.width);
      encoder.blocks_.push_back(std::move(block));
    }
    finish();
    return encoder;
  }

 private:
  /// As f32 on the device; undefined when there is a complaint.
  Tensor tensor(const std::string& name, const Shape& shape) {
    expected_.insert(prefix_ + name);
    const TensorInfo* info = file_.find_tensor(prefix_ + name);
    if (info == nullptr) {
      complaints_.push_back(fmt::format("{} is missing", prefix_ + name));
      return {};
    }
    if (info->dtype != DType::f32 && info->dtype != DType::f16 && info->dtype != DType::bf16 && info->dtype != DType::f64) {
      complaints_.push_back(fmt::format("{} is {}, expected floating point", info->name, dtype_name(info->dtype)));
      return {};
    }
    if (info->shape != std::vector<std::int64_t>(shape_extents(shape))) {
      complaints_.push_back(fmt::format("{} is [{}], expected {}", info->name, fmt::join(info->shape, ", "), shape.text()));
      return {};
    }
    Tensor host = Tensor::empty(shape);
    dequantise_row(info->dtype, info->data, static_cast<float*>(host.data()), host.size());
    return host.to(device_);
  }

  TextEncoder::Norm norm(const std::string& name, std::int64_t width) {
    return {tensor(name + ".weight", {width}), tensor(name + ".bias", {width})};
  }

  Linear linear(const std::string& name, std::int64_t outputs, std::int64_t inputs) {
    const Tensor weight = tensor(name + ".weight", {outputs, inputs}), bias = tensor(name + ".bias", {outputs});
    return weight.defined() && bias.defined() ? Linear::frozen(FrozenWeight(weight, mode_), bias) : Linear();
  }

  static std::vector<std::int64_t> shape_extents(const Shape& shape) {
    std::vector<std::int64_t> extents;
    for (int i = 0; i < shape.rank(); ++i) extents.push_back(shape[i]);
    return extents;
  }

  void finish() {
    const auto tolerated = [&](const std::string& name) {
      return name.starts_with(prefix_ + "pooler.") || name == prefix_ + "embeddings.position_ids";
    };
    for (const TensorInfo& info : file_.tensors()) {
      if (!expected_.contains(info.name) && !tolerated(info.name)) complaints_.push_back(fmt::format("{} is not expected", info.name));
    }
    for (const UnsupportedTensor& info : file_.unsupported()) {
      if (!tolerated(info.name)) complaints_.push_back(fmt::format("{} has the type {}", info.name, info.type));
    }
    if (complaints_.empty()) return;
    constexpr std::size_t most = 10;
    std::string text = fmt::format("{}: {} tensors do not fit config.json:", file_.path(), complaints_.size());
    for (std::size_t i = 0; i < std::min(most, complaints_.size()); ++i) text += "\n  " + complaints_[i];
    if (complaints_.size() > most) text += fmt::format("\n  and {} more", complaints_.size() - most);
    throw InputError(text, "the folder must hold a BERT-type encoder and the config.json that belongs to it");
  }

  std::filesystem::path folder_;
  Device device_;
  ComputeMode mode_;
  SafetensorsFile file_;
  std::string prefix_;
  std::set<std::string> expected_;
  std::vector<std::string> complaints_;
};

TextEncoder TextEncoder::load(const std::filesystem::path& folder, Device device, ComputeMode mode) {
  return TextEncoderLoader(folder, device, mode).load();
}

}  // namespace expctr
