#include "trainers/expctr/config.h"

#include <fmt/format.h>

#include <array>

#include "base/error.h"
#include "engine/io/durable_file.h"
#include "engine/io/sha256.h"

namespace expctr {
namespace {

PpoConfig read_ppo(ConfigReader r) {
  PpoConfig c;
  c.learning_rate = r.get("lr", c.learning_rate);
  r.require("lr", c.learning_rate > 0.0, "must be > 0");
  c.batch = r.get("batch", c.batch);
  r.require("batch", c.batch >= 1, "must be at least 1");
  c.mini_batch = r.get("mini_batch", c.batch);
  r.require("mini_batch", c.mini_batch >= 1, "must be at least 1");
  c.micro_batch_tokens = r.get("micro_batch_tokens", c.micro_batch_tokens);
  r.require("micro_batch_tokens", c.micro_batch_tokens >= 1, "must be at least 1");
  c.epochs = r.get("epochs", c.epochs);
  r.require("epochs", c.epochs >= 1, "must be at least 1");
  c.steps = r.get("steps", c.steps);
  r.require("steps", c.steps >= 1, "must be at least 1");
  c.max_new_tokens = r.get("max_new_tokens", c.max_new_tokens);
  r.require("max_new_tokens", c.max_new_tokens >= 1, "must be at least 1");
  c.gamma = r.get("gamma", c.gamma);
  c.lambda = r.get("lambda", c.lambda);
  c.clip = r.get("clip", c.clip);
  r.require("clip", c.clip > 0.0, "must be > 0");
  c.value_clip = r.get("value_clip", c.value_clip);
  r.require("value_clip", c.value_clip > 0.0, "must be > 0");
  c.value_coefficient = r.get("vf_coef", c.value_coefficient);
  ConfigReader kl = r.section("kl");
  c.kl_coefficient = kl.get("coef", c.kl_coefficient);
  c.kl_adaptive = kl.get("adaptive", c.kl_adaptive);
  c.kl_target = kl.get("target", c.kl_target);
  kl.require("target", c.kl_target > 0.0, "must be > 0");
  c.kl_horizon = kl.get("horizon", c.kl_horizon);
  kl.require("horizon", c.kl_horizon > 0.0, "must be > 0");
  c.kl_estimator = parse_kl_estimator(kl.choice("estimator", "k1", {"k1", "abs", "k2", "mse", "k3"}));
  c.whiten_rewards = r.get("whiten_rewards", c.whiten_rewards);
  c.whiten_advantages = r.get("whiten_advantages", c.whiten_advantages);
  c.whiten_unbiased = r.choice("whiten_variance", "unbiased", {"unbiased", "biased"}) == "unbiased";
  c.ratio_guard = r.get("ratio_guard", c.ratio_guard);
  c.early_stop = r.get("early_stop", c.early_stop);
  c.target_kl = r.get("target_kl", c.target_kl);
  c.gradient_clip = r.get("grad_clip", c.gradient_clip);
  c.missing_end_penalty = r.get("missing_eos_penalty", c.missing_end_penalty);
  ConfigReader sampling = r.section("sampling");
  c.temperature = sampling.get("temperature", c.temperature);
  sampling.require("temperature", c.temperature > 0.0, "must be > 0: PPO learns from samples");
  c.top_p = sampling.get("top_p", c.top_p);
  sampling.require("top_p", c.top_p > 0.0 && c.top_p <= 1.0, "must lie in (0, 1]");
  c.top_k = sampling.get("top_k", c.top_k);
  sampling.require("top_k", c.top_k >= 0, "must be >= 0 (0: off)");
  r.choice("reference", "base", {"base"});
  return c;
}

SftConfig read_sft(ConfigReader r) {
  SftConfig c;
  c.learning_rate = r.get("lr", c.learning_rate);
  r.require("lr", c.learning_rate > 0.0, "must be > 0");
  c.batch = r.get("batch", c.batch);
  r.require("batch", c.batch >= 1, "must be at least 1");
  c.epochs = r.get("epochs", c.epochs);
  r.require("epochs", c.epochs >= 1, "must be at least 1");
  c.patience = r.get("patience", c.patience);
  c.evaluations_per_epoch = r.get("evaluations_per_epoch", c.evaluations_per_epoch);
  r.require("evaluations_per_epoch", c.evaluations_per_epoch >= 1, "must be at least 1");
  return c;
}

ComputeMode read_compute(ConfigReader& llm) {
  const std::string mode = llm.choice("compute", "f32", {"f32", "bf16", "int8"});
  return mode == "bf16" ? ComputeMode::bf16 : mode == "int8" ? ComputeMode::int8 : ComputeMode::f32;
}

constexpr std::array<std::string_view, 9> sft_sections = {"seed", "data", "llm", "lora", "prompt", "folds", "pairs", "scorer", "sft"};
constexpr std::array<std::string_view, 12> stage1_sections = {"seed", "data", "llm", "lora", "prompt", "folds", "pairs", "scorer", "sft", "ppo", "reward.lc", "explain.decode"};
constexpr std::array<std::string_view, 16> stage2_sections = {"seed", "data",   "llm",       "lora",    "prompt",  "folds",   "pairs", "scorer",
                                                              "sft",  "ppo",    "reward.lc", "explain.decode", "encoder", "adapter", "ctr",   "stage2"};
constexpr std::array<std::string_view, 17> stage3_sections = {"seed", "data", "llm",    "lora",    "prompt",  "folds",   "pairs", "scorer", "sft",
                                                              "ppo",  "reward", "explain.decode", "encoder", "adapter", "ctr",   "stage2", "stage3"};

}  // namespace

ExpctrConfig read_expctr_config(const Config& config) {
  ConfigReader r(config);
  ExpctrConfig c;
  r.choice("system", "expctr", {"expctr"});
  c.seed = r.get("seed", c.seed);
  c.device = r.get("device", c.device);
  ConfigReader data = r.section("data");
  c.data_path = data.get("path", "ml-100k");
  c.pairs.label_rule = data.get("label_rule", "rating >= 4");
  c.ctr_data = read_ctr_data_config(data);
  c.pairs.split = c.ctr_data.split;
  c.pairs.scope = c.ctr_data.scope;
  ConfigReader llm = r.section("llm");
  c.llm_path = llm.get("path", "SmolLM2-135M-Instruct");
  c.compute = read_compute(llm);
  ConfigReader lora = r.section("lora");
  c.lora_rank = lora.get("rank", c.lora_rank);
  c.lora_alpha = lora.get("alpha", c.lora_alpha);
  c.lora_dropout = lora.get("dropout", c.lora_dropout);
  lora.require("dropout", c.lora_dropout >= 0.0 && c.lora_dropout < 1.0, "must lie in [0, 1)");
  c.lora_targets = lora.get("targets", std::vector<std::string>{"q_proj", "v_proj"});
  c.lora_layers = lora.get("layers", "all");
  ConfigReader prompt = r.section("prompt");
  c.pairs.prompt.domain = prompt.get("domain", "movie");
  c.pairs.prompt.max_liked = prompt.get("max_liked", 10);
  c.pairs.prompt.max_disliked = prompt.get("max_disliked", 10);
  prompt.require("max_liked", c.pairs.prompt.max_liked >= 0, "must be >= 0");
  prompt.require("max_disliked", c.pairs.prompt.max_disliked >= 0, "must be >= 0");
  c.pairs.prompt.max_tokens = prompt.get("max_tokens", 512);
  const auto fields = prompt.get("item_fields", std::vector<std::string>{"title", "genres"});
  c.pairs.prompt.genres = std::find(fields.begin(), fields.end(), "genres") != fields.end();
  ConfigReader folds = r.section("folds");
  c.pairs.folds.seed = c.seed;
  c.pairs.folds.folds = folds.get("k", 2);
  folds.require("k", c.pairs.folds.folds >= 1 && c.pairs.folds.folds <= 16, "must lie in 1 .. 16");
  c.pairs.folds.by_pair = folds.choice("by", "user", {"user", "pair"}) == "pair";
  c.pairs.folds.scorer_share = folds.get("scorer_share", 0.2);
  ConfigReader pairs = r.section("pairs");
  c.counts.train = pairs.get("train", std::int64_t{0});
  c.counts.valid = pairs.get("valid", std::int64_t{0});
  c.counts.test = pairs.get("test", std::int64_t{0});
  c.counts.sft = pairs.get("sft", std::int64_t{0});
  for (const char* key : {"train", "valid", "test", "sft"}) pairs.require(key, pairs.get(key, std::int64_t{0}) >= 0, "must be >= 0 (0: all)");
  c.scorer_base = r.section("scorer").choice("type", "sft", {"sft", "base"}) == "base";
  c.sft = read_sft(r.section("sft"));
  c.ppo = read_ppo(r.section("ppo"));
  c.pairs.prompt.remark_tokens = static_cast<int>(c.ppo.max_new_tokens);
  ConfigReader reward = r.section("reward");
  c.reward.lc_form = parse_lc_form(reward.choice("lc.form", "delta", {"delta", "prob", "logp"}));
  c.reward.lc_clip = reward.get("lc.clip", c.reward.lc_clip);
  c.reward.ic_form = parse_ic_form(reward.choice("ic.form", "prob", {"prob", "logp", "delta", "consistency"}));
  c.reward.ic_clip = reward.get("ic.clip", c.reward.ic_clip);
  c.reward.ic_weight = reward.get("ic.weight", c.reward.ic_weight);
  ConfigReader encoder = r.section("encoder");
  c.encoder_path = encoder.get("model", "minilm-l6");
  encoder.choice("pooling", "mean", {"mean"});
  c.encoder_max_tokens = encoder.get("max_tokens", c.encoder_max_tokens);
  c.ctr = read_ctr_config(r);
  c.stage2_rows_with_text = r.section("stage2").choice("rows", "all", {"all", "with_text"}) == "with_text";
  ConfigReader explain = r.section("explain");
  c.explain_greedy = explain.choice("decode", "greedy", {"greedy", "sample"}) == "greedy";
  c.explain_batch = explain.get("batch", c.explain_batch);
  explain.require("batch", c.explain_batch >= 1, "must be at least 1");
  c.explain_user = explain.get("user", "");
  c.explain_item = explain.get("item", "");
  c.refresh = r.section("stage3").choice("refresh", "all", {"all", "eval", "none"});
  c.cache_bytes = static_cast<std::size_t>(r.section("cache").get("prefix_bytes", std::int64_t{1} << 30));
  c.checkpoint_every = r.section("checkpoint").get("every", std::int64_t{1});
  r.section("checkpoint").require("every", c.checkpoint_every >= 1, "must be at least 1");
  r.finish();
  c.resolved = r.resolved_yaml();
  return c;
}

LoraConfig ExpctrConfig::lora(const DecoderConfig& decoder) const {
  LoraConfig result;
  result.rank = lora_rank;
  result.alpha = lora_alpha;
  result.dropout = lora_dropout;
  result.targets.clear();
  for (const std::string& target : lora_targets) result.targets.push_back(parse_projection(target));
  parse_layer_range(lora_layers, decoder.layers, result.first_layer, result.last_layer);
  return result;
}

std::string ExpctrConfig::identity(std::span<const std::string_view> sections) const {
  const Config config = Config::parse(resolved, "resolved configuration");
  std::string text;
  for (const Config::Entry& entry : config.entries()) {
    const bool wanted = std::any_of(sections.begin(), sections.end(), [&](std::string_view section) {
      return entry.key == section || (entry.key.starts_with(section) && entry.key.size() > section.size() && entry.key[section.size()] == '.');
    });
    if (wanted) text += fmt::format("{}: {}\n", entry.key, entry.value.text());
  }
  return sha256_hex(as_bytes(text));
}

std::span<const std::string_view> stage_sections(std::string_view stage) {
  if (stage == "sft") return sft_sections;
  if (stage == "stage1") return stage1_sections;
  if (stage == "stage2") return stage2_sections;
  return stage3_sections;
}

}  // namespace expctr
