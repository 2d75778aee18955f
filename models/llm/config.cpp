#include "models/llm/config.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>
#include <set>

#include "base/error.h"
#include "engine/io/checked_json.h"
#include "engine/io/mapped_file.h"

namespace expctr {
namespace {

const std::set<std::string> supported = {"llama", "qwen2", "qwen3"};

void require_supported(const std::string& where, const std::string& architecture) {
  if (!supported.contains(architecture)) {
    throw InputError(fmt::format("{}: architecture '{}' is not supported", where, architecture), fmt::format("supported decoders: {}", fmt::join(supported, ", ")));
  }
}

// The numbers come from a file: each is checked before anything is sized by it.
void check(const std::string& where, const DecoderConfig& c) {
  const auto in_range = [&](const char* name, std::int64_t value, std::int64_t most) {
    if (value < 1 || value > most) throw InputError(fmt::format("{}: {} is {}", where, name, value), "the file is damaged or not a decoder");
  };
  in_range("number of layers", c.layers, 1024);
  in_range("width", c.width, 1 << 20);
  in_range("number of heads", c.heads, 4096);
  in_range("number of key-value heads", c.kv_heads, 4096);
  in_range("head width", c.head_dim, 4096);
  in_range("feed-forward width", c.ffn_width, 1 << 22);
  in_range("vocabulary", c.vocabulary, 1 << 24);
  in_range("number of positions", c.positions, 1 << 27);
  if (c.heads % c.kv_heads != 0) throw InputError(fmt::format("{}: {} heads are no multiple of {} key-value heads", where, c.heads, c.kv_heads), "the file is damaged");
  if (c.head_dim % 2 != 0) throw InputError(fmt::format("{}: head width {} is odd", where, c.head_dim), "rotary embedding needs pairs");
  if (!(c.rope_base > 0.0) || !(c.norm_epsilon >= 0.0) || !(c.rope_scaling.factor > 0.0)) throw InputError(fmt::format("{}: rope base, rope factor or epsilon is not positive", where), "the file is damaged");
}

}  // namespace

DecoderConfig decoder_config_from_gguf(const GgufFile& file) {
  DecoderConfig c;
  c.architecture = file.required_string("general.architecture");
  require_supported(file.path(), c.architecture);
  const auto key = [&](const char* name) { return c.architecture + "." + name; };
  c.layers = file.required_u32(key("block_count"));
  c.width = file.required_u32(key("embedding_length"));
  c.heads = file.required_u32(key("attention.head_count"));
  c.kv_heads = file.find_u32(key("attention.head_count_kv")).value_or(static_cast<std::uint32_t>(c.heads));
  c.head_dim = file.find_u32(key("attention.key_length")).value_or(static_cast<std::uint32_t>(c.heads == 0 ? 0 : c.width / c.heads));
  c.ffn_width = file.required_u32(key("feed_forward_length"));
  c.positions = file.required_u32(key("context_length"));
  c.norm_epsilon = file.required_f32(key("attention.layer_norm_rms_epsilon"));
  c.rope_base = file.find_f32(key("rope.freq_base")).value_or(10000.0f);
  if (const auto kind = file.find_string(key("rope.scaling.type")); kind && *kind != "none") {
    c.rope_scaling.factor = file.find_f32(key("rope.scaling.factor")).value_or(1.0f);
    c.rope_scaling.original_positions = file.find_u32(key("rope.scaling.original_context_length")).value_or(static_cast<std::uint32_t>(c.positions));
    if (*kind == "linear") {
      c.rope_scaling.kind = RopeScaling::Kind::linear;
    } else if (*kind == "yarn") {
      c.rope_scaling.kind = RopeScaling::Kind::yarn;
    } else {
      throw InputError(fmt::format("{}: rope scaling '{}' is not supported", file.path(), *kind), "supported: none, linear, llama3, yarn");
    }
  }
  if (file.find_tensor("rope_freqs.weight") != nullptr) {
    throw InputError(fmt::format("{}: per-frequency rope factors (rope_freqs.weight) are not supported in GGUF files", file.path()), "use the model's Hugging Face folder");
  }
  const TensorInfo& embedding = file.required_tensor("token_embd.weight");
  if (embedding.shape.size() != 2) throw InputError(fmt::format("{}: token_embd.weight has {} axes", file.path(), embedding.shape.size()), "the file is damaged");
  c.vocabulary = embedding.shape[0];
  c.tied_head = file.find_tensor("output.weight") == nullptr;
  c.attention_bias = file.find_tensor("blk.0.attn_q.bias") != nullptr;
  c.qk_norm = file.find_tensor("blk.0.attn_q_norm.weight") != nullptr;
  check(file.path(), c);
  return c;
}

DecoderConfig decoder_config_from_folder(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "config.json";
  const std::string where = path.string();
  const MappedFile file(path);
  const nlohmann::json root = parse_checked_json({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}, where, 16);
  const auto fail = [&](const std::string& what) -> void { throw InputError(fmt::format("{}: {}", where, what), "take config.json from the folder the weights came from"); };
  if (!root.is_object()) fail("not an object");
  const auto integer = [&](const nlohmann::json& object, const char* name, std::optional<std::int64_t> otherwise) -> std::int64_t {
    const auto found = object.find(name);
    if (found == object.end() || found->is_null()) {
      if (!otherwise) fail(fmt::format("no '{}'", name));
      return *otherwise;
    }
    if (!found->is_number_integer()) fail(fmt::format("'{}' is no integer", name));
    return found->get<std::int64_t>();
  };
  const auto number = [&](const nlohmann::json& object, const char* name, std::optional<double> otherwise) -> double {
    const auto found = object.find(name);
    if (found == object.end() || found->is_null()) {
      if (!otherwise) fail(fmt::format("no '{}'", name));
      return *otherwise;
    }
    if (!found->is_number()) fail(fmt::format("'{}' is no number", name));
    return found->get<double>();
  };
  const auto flag = [&](const char* name, bool otherwise) {
    const auto found = root.find(name);
    if (found == root.end() || found->is_null()) return otherwise;
    if (!found->is_boolean()) fail(fmt::format("'{}' is not true or false", name));
    return found->get<bool>();
  };
  DecoderConfig c;
  const auto type = root.find("model_type");
  if (type == root.end() || !type->is_string()) fail("no 'model_type'");
  c.architecture = type->get<std::string>();
  require_supported(where, c.architecture);
  c.layers = integer(root, "num_hidden_layers", {});
  c.width = integer(root, "hidden_size", {});
  c.heads = integer(root, "num_attention_heads", {});
  c.kv_heads = integer(root, "num_key_value_heads", c.heads);
  c.head_dim = integer(root, "head_dim", c.heads > 0 ? c.width / c.heads : 0);
  c.ffn_width = integer(root, "intermediate_size", {});
  c.vocabulary = integer(root, "vocab_size", {});
  c.positions = integer(root, "max_position_embeddings", 2048);
  c.norm_epsilon = number(root, "rms_norm_eps", 1e-6);
  c.attention_bias = c.architecture == "qwen2" || flag("attention_bias", false);
  c.qk_norm = c.architecture == "qwen3";
  c.tied_head = flag("tie_word_embeddings", false);
  c.rope_base = number(root, "rope_theta", 10000.0);
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    const auto scaling = root.find(name);
    if (scaling == root.end() || scaling->is_null()) continue;
    if (!scaling->is_object()) fail(fmt::format("'{}' is no object", name));
    c.rope_base = number(*scaling, "rope_theta", c.rope_base);
    std::string kind = "default";
    for (const char* spelling : {"type", "rope_type"}) {
      if (const auto found = scaling->find(spelling); found != scaling->end() && found->is_string()) kind = found->get<std::string>();
    }
    RopeScaling& s = c.rope_scaling;
    if (kind == "default") continue;
    if (kind == "linear") {
      s.kind = RopeScaling::Kind::linear;
    } else if (kind == "llama3") {
      s.kind = RopeScaling::Kind::llama3;
    } else if (kind == "yarn") {
      s.kind = RopeScaling::Kind::yarn;
    } else {
      fail(fmt::format("rope scaling '{}' is not supported (default, linear, llama3 and yarn are)", kind));
    }
    s.factor = number(*scaling, "factor", {});
    s.low_frequency_factor = number(*scaling, "low_freq_factor", 1.0);
    s.high_frequency_factor = number(*scaling, "high_freq_factor", 4.0);
    s.beta_fast = number(*scaling, "beta_fast", 32.0);
    s.beta_slow = number(*scaling, "beta_slow", 1.0);
    s.attention_factor = number(*scaling, "attention_factor", 0.0);
    s.original_positions = integer(*scaling, "original_max_position_embeddings", c.positions);
  }
  check(where, c);
  return c;
}

RopeFrequencies rope_frequencies(const DecoderConfig& config) {
  const std::int64_t half = config.head_dim / 2;
  const RopeScaling& s = config.rope_scaling;
  RopeFrequencies result;
  const double dim = static_cast<double>(config.head_dim), original = static_cast<double>(s.original_positions);
  const auto correction = [&](double rotations) {  // the pair whose wave turns `rotations` times within the trained length
    return dim * std::log(original / (rotations * 2.0 * std::numbers::pi)) / (2.0 * std::log(config.rope_base));
  };
  for (std::int64_t i = 0; i < half; ++i) {
    const double plain = std::pow(config.rope_base, -2.0 * static_cast<double>(i) / dim);
    double frequency = plain;
    switch (s.kind) {
      case RopeScaling::Kind::none: break;
      case RopeScaling::Kind::linear: frequency = plain / s.factor; break;
      case RopeScaling::Kind::llama3: {
        const double wavelength = 2.0 * std::numbers::pi / plain;
        if (wavelength > original / s.low_frequency_factor) {
          frequency = plain / s.factor;
        } else if (wavelength >= original / s.high_frequency_factor) {
          const double smooth = (original / wavelength - s.low_frequency_factor) / (s.high_frequency_factor - s.low_frequency_factor);
          frequency = (1.0 - smooth) * plain / s.factor + smooth * plain;
        }
        break;
      }
      case RopeScaling::Kind::yarn: {
        const double low = std::max(std::floor(correction(s.beta_fast)), 0.0);
        double high = std::min(std::ceil(correction(s.beta_slow)), dim - 1.0);
        if (low == high) high += 0.001;
        const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
        frequency = plain / s.factor * ramp + plain * (1.0 - ramp);
        break;
      }
    }
    result.inverse.push_back(frequency);
  }
  if (s.kind == RopeScaling::Kind::yarn) {
    result.factor = s.attention_factor != 0.0 ? s.attention_factor : (s.factor > 1.0 ? 0.1 * std::log(s.factor) + 1.0 : 1.0);
  }
  return result;
}

Tensor rope_table(const DecoderConfig& config, std::int64_t positions, DType dtype, Device device) {
  const RopeFrequencies frequencies = rope_frequencies(config);
  const std::int64_t half = config.head_dim / 2;
  std::vector<double> table(static_cast<std::size_t>(positions * config.head_dim));
  for (std::int64_t p = 0; p < positions; ++p) {
    for (std::int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * frequencies.inverse[static_cast<std::size_t>(i)];
      table[static_cast<std::size_t>(p * config.head_dim + i)] = std::cos(angle) * frequencies.factor;
      table[static_cast<std::size_t>(p * config.head_dim + half + i)] = std::sin(angle) * frequencies.factor;
    }
  }
  const Shape shape{positions, config.head_dim};
  if (dtype == DType::f64) return Tensor::of(table, shape, device);
  return Tensor::of(std::vector<float>(table.begin(), table.end()), shape, device);
}

}  // namespace expctr
