#include "tests/rl/ppo_case.h"

#include <fmt/format.h>

#include "models/parameters.h"
#include "tests/support/oracle.h"

namespace expctr::test {

std::vector<std::vector<double>> ragged_rows(const std::vector<double>& padded, const std::vector<std::int64_t>& lengths,
                                             std::int64_t columns) {
  std::vector<std::vector<double>> rows;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    const auto begin = padded.begin() + static_cast<std::ptrdiff_t>(i) * columns;
    rows.emplace_back(begin, begin + lengths[i]);
  }
  return rows;
}

std::string oracle_name(const std::string& name) {
  if (name.starts_with("value_head")) return name;
  const std::string stem = "base_model.model.model.layers.";
  const std::size_t dot = name.find('.', stem.size());
  const bool query = name.find("q_proj") != std::string::npos, a = name.find("lora_A") != std::string::npos;
  return fmt::format("lora.layer.{}.{}.{}", name.substr(stem.size(), dot - stem.size()), query ? "q" : "v", a ? "A" : "B");
}

std::vector<const Rollout*> pointers(const std::vector<Rollout>& rollouts) {
  std::vector<const Rollout*> result;
  for (const Rollout& rollout : rollouts) result.push_back(&rollout);
  return result;
}

void assign_evaluation(std::vector<Rollout>& rollouts, const TokenEvaluation& evaluation) {
  const std::vector<double> log_probabilities = doubles(evaluation.log_probability), values = doubles(evaluation.value);
  std::ptrdiff_t at = 0;
  for (Rollout& rollout : rollouts) {
    const auto n = static_cast<std::ptrdiff_t>(rollout.response.size());
    rollout.log_probabilities.assign(log_probabilities.begin() + at, log_probabilities.begin() + at + n);
    rollout.values.assign(values.begin() + at, values.begin() + at + n);
    at += n;
  }
}

PpoCase load_ppo_case(const std::filesystem::path& folder, DType dtype, bool packed) {
  const SafetensorsFile file = SafetensorsFile::open(folder / "tensors.safetensors");
  const SafetensorsFile base = SafetensorsFile::open(folder.parent_path() / "ppo_step" / "tensors.safetensors");
  const nlohmann::json hyper = read_json(folder / "case.json").at("hyper_parameters"), h = hyper.at("decoder");
  DecoderConfig c;
  c.architecture = "llama";
  c.layers = h.at("layers");
  c.width = h.at("width");
  c.heads = h.at("heads");
  c.kv_heads = h.at("kv_heads");
  c.head_dim = h.at("head_width");
  c.ffn_width = h.at("ffn");
  c.vocabulary = h.at("vocab");
  c.positions = 64;
  c.norm_epsilon = h.at("rms_eps");
  c.rope_base = h.at("rope_base");
  c.tied_head = true;
  const auto stored = [&](const SafetensorsFile& source, const std::string& name) {
    return tensor_of(doubles(source, name), shape_of(source, name), dtype);
  };
  const auto weight = [&](const std::string& name) { return stored(base, "param.base." + name + ".weight"); };
  const auto linear = [&](const std::string& name) {
    return packed ? Linear::frozen(FrozenWeight(weight(name))) : Linear::dense(weight(name));
  };
  std::vector<DecoderLayer> layers;
  for (std::int64_t i = 0; i < c.layers; ++i) {
    const std::string stem = fmt::format("layer.{}.", i);
    DecoderLayer layer;
    layer.q = linear(stem + "q");
    layer.k = linear(stem + "k");
    layer.v = linear(stem + "v");
    layer.o = linear(stem + "o");
    layer.gate = linear(stem + "gate");
    layer.up = linear(stem + "up");
    layer.down = linear(stem + "down");
    layer.attention_norm = weight(stem + "input_norm");
    layer.ffn_norm = weight(stem + "post_norm");
    layers.push_back(std::move(layer));
  }
  const Tensor embedding = weight("embed");
  Decoder decoder(c, embedding, std::move(layers), weight("final_norm"),
                  packed ? Linear::frozen(FrozenWeight(embedding)) : Linear::dense(embedding));

  PpoConfig config;
  config.learning_rate = hyper.at("optimiser").at("lr");
  config.batch = hyper.at("prompts");
  config.mini_batch = hyper.at("mini_batch");
  config.epochs = hyper.at("ppo_epochs");
  config.gamma = hyper.at("gamma");
  config.lambda = hyper.at("lam");
  config.clip = hyper.at("clip");
  config.value_clip = hyper.at("value_clip");
  config.value_coefficient = hyper.at("vf_coef");
  config.kl_coefficient = hyper.at("beta");
  config.kl_target = hyper.at("kl_target");
  config.kl_horizon = hyper.at("kl_horizon");
  config.kl_estimator = parse_kl_estimator(hyper.at("kl_estimator").get<std::string>());

  LoraConfig lora;
  lora.rank = h.at("lora_rank");
  lora.alpha = h.at("lora_alpha");
  lora.last_layer = c.layers;
  Tensor value_weight = stored(file, "param.value_head.weight"), value_bias = stored(file, "param.value_head.bias");
  value_weight.require_gradient();
  value_bias.require_gradient();
  Policy policy(LoraAdapter(c, lora, 0, dtype, cpu_device, true), value_weight, value_bias, config);
  for (const NamedTensor& p : policy.adapter.parameters()) p.tensor.copy_from(stored(file, "param." + oracle_name(p.name)));

  PpoCase result{std::move(decoder), std::move(policy), config, {}, {}, {}, 0};
  const Shape shape = shape_of(file, "in.tokens"), padded = shape_of(file, "out.logprob_old");
  result.most_response = padded[1];
  const std::vector<std::int32_t> tokens = integers(file, "in.tokens"), prompt = integers(file, "in.prompt_length"),
                                  response = integers(file, "in.response_length"), order = integers(file, "in.permutation");
  const std::vector<double> score = doubles(file, "in.score");
  const auto end_token = hyper.at("end_token").get<std::int32_t>();
  for (std::int64_t b = 0; b < shape[0]; ++b) {
    const auto row = static_cast<std::size_t>(b);
    const auto begin = tokens.begin() + b * shape[1];
    Rollout rollout;
    rollout.prompt_tokens = prompt[row];
    rollout.response.assign(begin + prompt[row], begin + prompt[row] + response[row]);
    rollout.ended = rollout.response.back() == end_token;
    const std::int64_t inputs = prompt[row] + response[row] - 1;
    rollout.split_hidden = result.decoder.embed(Tensor::of(Tokens(begin, begin + inputs), {inputs}));
    rollout.score = score[row];
    result.rollouts.push_back(std::move(rollout));
    result.response_lengths.push_back(response[row]);
  }
  const auto rows = static_cast<std::size_t>(shape[0]);
  for (std::size_t e = 0; e * rows < order.size(); ++e)
    result.permutations.emplace_back(order.begin() + static_cast<std::ptrdiff_t>(e * rows),
                                     order.begin() + static_cast<std::ptrdiff_t>((e + 1) * rows));
  return result;
}

}  // namespace expctr::test
