#include "models/llm/load.h"

#include <fmt/format.h>

#include <functional>
#include <set>

#include "base/error.h"
#include "engine/io/dequantise.h"
#include "engine/io/gguf.h"
#include "engine/io/safetensors.h"

namespace expctr {
namespace {

enum class Part { embedding, final_norm, head, attention_norm, ffn_norm, q_norm, k_norm, q, k, v, o, gate, up, down, q_bias, k_bias, v_bias };

// The same tensors under the two conventions of naming.
std::string gguf_name(Part part, std::int64_t layer) {
  const std::string block = fmt::format("blk.{}.", layer);
  switch (part) {
    case Part::embedding: return "token_embd.weight";
    case Part::final_norm: return "output_norm.weight";
    case Part::head: return "output.weight";
    case Part::attention_norm: return block + "attn_norm.weight";
    case Part::ffn_norm: return block + "ffn_norm.weight";
    case Part::q_norm: return block + "attn_q_norm.weight";
    case Part::k_norm: return block + "attn_k_norm.weight";
    case Part::q: return block + "attn_q.weight";
    case Part::k: return block + "attn_k.weight";
    case Part::v: return block + "attn_v.weight";
    case Part::o: return block + "attn_output.weight";
    case Part::gate: return block + "ffn_gate.weight";
    case Part::up: return block + "ffn_up.weight";
    case Part::down: return block + "ffn_down.weight";
    case Part::q_bias: return block + "attn_q.bias";
    case Part::k_bias: return block + "attn_k.bias";
    case Part::v_bias: return block + "attn_v.bias";
  }
  return {};
}

std::string folder_name(Part part, std::int64_t layer) {
  const std::string block = fmt::format("model.layers.{}.", layer);
  switch (part) {
    case Part::embedding: return "model.embed_tokens.weight";
    case Part::final_norm: return "model.norm.weight";
    case Part::head: return "lm_head.weight";
    case Part::attention_norm: return block + "input_layernorm.weight";
    case Part::ffn_norm: return block + "post_attention_layernorm.weight";
    case Part::q_norm: return block + "self_attn.q_norm.weight";
    case Part::k_norm: return block + "self_attn.k_norm.weight";
    case Part::q: return block + "self_attn.q_proj.weight";
    case Part::k: return block + "self_attn.k_proj.weight";
    case Part::v: return block + "self_attn.v_proj.weight";
    case Part::o: return block + "self_attn.o_proj.weight";
    case Part::gate: return block + "mlp.gate_proj.weight";
    case Part::up: return block + "mlp.up_proj.weight";
    case Part::down: return block + "mlp.down_proj.weight";
    case Part::q_bias: return block + "self_attn.q_proj.bias";
    case Part::k_bias: return block + "self_attn.k_proj.bias";
    case Part::v_bias: return block + "self_attn.v_proj.bias";
  }
  return {};
}

/// Reads the parts of one file, checks shapes, and keeps account of what was expected.
class Source {
 public:
  using Find = std::function<const TensorInfo*(const std::string&)>;
  Source(std::string path, Find find, std::string (*name)(Part, std::int64_t), bool interleaved_heads)
      : path_(std::move(path)), find_(std::move(find)), name_(name), interleaved_heads_(interleaved_heads) {}

  /// The tensor on the CPU as the file has it, or undefined with a complaint noted.
  Tensor read(Part part, std::int64_t layer, const Shape& shape) {
    const std::string name = name_(part, layer);
    expected_.insert(name);
    const TensorInfo* info = find_(name);
    if (info == nullptr) {
      complaints_.push_back(name + " is missing");
      return {};
    }
    if (!(Shape(info->shape) == shape)) {
      complaints_.push_back(fmt::format("{} is {}, expected {}", name, Shape(info->shape).text(), shape.text()));
      return {};
    }
    if (!is_quantised(info->dtype) && !is_floating(info->dtype) && info->dtype != DType::bf16 && info->dtype != DType::f16) {
      complaints_.push_back(fmt::format("{} has dtype {}", name, dtype_name(info->dtype)));
      return {};
    }
    return Tensor::of_bytes({info->data, info->bytes}, shape, info->dtype);
  }

  /// Query and key matrices: rows of each head in the order (i, i + half), whatever the file has.
  Tensor read_heads(Part part, std::int64_t layer, const Shape& shape, std::int64_t head_dim) {
    Tensor source = read(part, layer, shape);
    if (!source.defined() || !interleaved_heads_) return source;
    Tensor result = source.empty_like();
    const std::size_t row = source.bytes() / static_cast<std::size_t>(shape[0]);
    const auto* from = static_cast<const std::byte*>(source.data());
    auto* to = static_cast<std::byte*>(result.data());
    for (std::int64_t r = 0; r < shape[0]; ++r) {
      const std::int64_t head = r / head_dim, i = r % head_dim, half = head_dim / 2;
      const std::int64_t source_row = head * head_dim + (i < half ? 2 * i : 2 * (i - half) + 1);
      std::memcpy(to + static_cast<std::size_t>(r) * row, from + static_cast<std::size_t>(source_row) * row, row);
    }
    return result;
  }

  void expect_also(Part part) { expected_.insert(name_(part, 0)); }

  void finish(const std::vector<TensorInfo>& tensors, const std::vector<UnsupportedTensor>& unsupported) {
    for (const TensorInfo& tensor : tensors) {
      // Old exports carry the rotary frequencies as a buffer; they follow from the configuration.
      if (!expected_.contains(tensor.name) && !tensor.name.ends_with("rotary_emb.inv_freq")) complaints_.push_back(tensor.name + " is not expected");
    }
    for (const UnsupportedTensor& tensor : unsupported) complaints_.push_back(fmt::format("{} has type {}, which is not supported", tensor.name, tensor.type));
    if (complaints_.empty()) return;
    constexpr std::size_t shown = 12;
    std::string list;
    for (std::size_t i = 0; i < complaints_.size() && i < shown; ++i) list += "\n  " + complaints_[i];
    if (complaints_.size() > shown) list += fmt::format("\n  and {} more", complaints_.size() - shown);
    throw InputError(fmt::format("{}: the tensors do not fit the model:{}", path_, list), "the file is damaged, or its configuration belongs to another model");
  }

 private:
  std::string path_;
  Find find_;
  std::string (*name_)(Part, std::int64_t);
  bool interleaved_heads_;
  std::set<std::string> expected_;
  std::vector<std::string> complaints_;
};

Tensor dense(const Tensor& stored, DType dtype, bool trained, Device device) {
  std::vector<float> values(static_cast<std::size_t>(stored.size()));
  Tensor result;
  if (stored.dtype() == DType::f64) {
    const std::vector<double> exact = stored.to_vector<double>();
    if (dtype == DType::f64) {
      result = Tensor::of(exact, stored.shape(), device);
    } else {
      values.assign(exact.begin(), exact.end());
    }
  } else {
    dequantise_row(stored.dtype(), static_cast<const std::byte*>(stored.data()), values.data(), stored.size());
  }
  if (!result.defined()) {
    result = dtype == DType::f64 ? Tensor::of(std::vector<double>(values.begin(), values.end()), stored.shape(), device) : Tensor::of(values, stored.shape(), device);
  }
  if (trained) result.require_gradient();
  return result;
}

Decoder assemble(Source& source, const std::vector<TensorInfo>& tensors, const std::vector<UnsupportedTensor>& unsupported, const DecoderConfig& c, const DecoderLoadOptions& o) {
  const std::int64_t q_rows = c.heads * c.head_dim, kv_rows = c.kv_heads * c.head_dim;
  const DType dtype = o.dense ? o.dense_dtype : DType::f32;
  const auto gain = [&](Part part, std::int64_t layer, std::int64_t width) {
    const Tensor stored = source.read(part, layer, {width});
    return stored.defined() ? dense(stored, dtype, o.dense, o.device) : Tensor();
  };
  const auto linear = [&](const Tensor& stored, const Tensor& bias) {
    if (!stored.defined()) return Linear();
    if (o.dense) return Linear::dense(dense(stored, dtype, true, o.device), bias);
    return Linear::frozen(FrozenWeight(stored.to(o.device), o.mode), bias);
  };
  const auto bias = [&](Part part, std::int64_t layer, std::int64_t width) { return c.attention_bias ? gain(part, layer, width) : Tensor(); };
  const auto head_bias = [&](Part part, std::int64_t layer, std::int64_t rows) {
    if (!c.attention_bias) return Tensor();
    const Tensor stored = source.read_heads(part, layer, {rows}, c.head_dim);
    return stored.defined() ? dense(stored, dtype, o.dense, o.device) : Tensor();
  };

  Tensor embedding = source.read(Part::embedding, 0, {c.vocabulary, c.width});
  std::vector<DecoderLayer> layers;
  for (std::int64_t i = 0; i < c.layers; ++i) {
    DecoderLayer layer;
    layer.q = linear(source.read_heads(Part::q, i, {q_rows, c.width}, c.head_dim), head_bias(Part::q_bias, i, q_rows));
    layer.k = linear(source.read_heads(Part::k, i, {kv_rows, c.width}, c.head_dim), head_bias(Part::k_bias, i, kv_rows));
    layer.v = linear(source.read(Part::v, i, {kv_rows, c.width}), bias(Part::v_bias, i, kv_rows));
    layer.o = linear(source.read(Part::o, i, {c.width, q_rows}), {});
    layer.gate = linear(source.read(Part::gate, i, {c.ffn_width, c.width}), {});
    layer.up = linear(source.read(Part::up, i, {c.ffn_width, c.width}), {});
    layer.down = linear(source.read(Part::down, i, {c.width, c.ffn_width}), {});
    layer.attention_norm = gain(Part::attention_norm, i, c.width);
    layer.ffn_norm = gain(Part::ffn_norm, i, c.width);
    if (c.qk_norm) {
      layer.q_norm = gain(Part::q_norm, i, c.head_dim);
      layer.k_norm = gain(Part::k_norm, i, c.head_dim);
    }
    layers.push_back(std::move(layer));
  }
  Tensor final_norm = gain(Part::final_norm, 0, c.width);
  Tensor head = c.tied_head ? Tensor() : source.read(Part::head, 0, {c.vocabulary, c.width});
  if (c.tied_head) source.expect_also(Part::head);  // some files carry a copy of the embedding
  source.finish(tensors, unsupported);

  if (o.dense) {
    embedding = dense(embedding, dtype, true, o.device);
    const Linear out = c.tied_head ? Linear::dense(embedding) : Linear::dense(dense(head, dtype, true, o.device));
    return Decoder(c, embedding, std::move(layers), final_norm, out);
  }
  embedding = embedding.to(o.device);
  const Linear out = Linear::frozen(FrozenWeight(c.tied_head ? embedding : head.to(o.device), o.mode));
  return Decoder(c, embedding, std::move(layers), final_norm, out);
}

}  // namespace

Decoder load_decoder(const std::filesystem::path& path, const DecoderLoadOptions& options) {
  if (std::filesystem::is_directory(path)) {
    const DecoderConfig config = decoder_config_from_folder(path);
    const SafetensorsFile file = SafetensorsFile::open(path);
    Source source(path.string(), [&](const std::string& name) { return file.find_tensor(name); }, folder_name, false);
    return assemble(source, file.tensors(), file.unsupported(), config, options);
  }
  const GgufFile file = GgufFile::open(path);
  const DecoderConfig config = decoder_config_from_gguf(file);
  Source source(path.string(), [&](const std::string& name) { return file.find_tensor(name); }, gguf_name, config.architecture == "llama");
  return assemble(source, file.tensors(), file.unsupported(), config, options);
}

}  // namespace expctr
