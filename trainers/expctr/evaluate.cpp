// Evaluation of a finished run on held-out pairs: every figure with a 95 % paired bootstrap interval (specs expctr.md, section 10).
#include "trainers/expctr/evaluate.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "data/ctr_batches.h"
#include "engine/io/durable_file.h"
#include "engine/log/logger.h"
#include "inference/metrics/bootstrap.h"
#include "inference/metrics/leakage_probe.h"
#include "inference/metrics/ranking_quality.h"
#include "inference/metrics/text_quality.h"
#include "trainers/expctr/click_models.h"
#include "trainers/expctr/explanations.h"
#include "trainers/expctr/stages.h"
#include "trainers/rl/reward.h"

namespace expctr {
namespace {

double sigmoid_of(double margin) { return std::exp(log_sigmoid(margin)); }
double log_likelihood(int label, double margin) { return log_sigmoid(label != 0 ? margin : -margin); }

/// Collects the figures of metrics.json.
class Figures {
 public:
  void add(const std::string& group, const std::string& key, const std::string& name, const Interval& interval, const std::string& meaning, bool difference, const std::string& better) {
    nlohmann::json figure = {{"group", group}, {"key", key}, {"name", name}, {"value", number(interval.value)}, {"low", number(interval.low)}, {"high", number(interval.high)},
                             {"meaning", meaning}, {"difference", difference}, {"better", better}};
    list_.push_back(std::move(figure));
  }
  void add_plain(const std::string& group, const std::string& key, const std::string& name, double value, const std::string& meaning, const std::string& better) {
    list_.push_back({{"group", group}, {"key", key}, {"name", name}, {"value", number(value)}, {"low", nullptr}, {"high", nullptr}, {"meaning", meaning}, {"difference", false}, {"better", better}});
  }
  nlohmann::json take() { return std::move(list_); }

 private:
  static nlohmann::json number(double value) { return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(nullptr); }
  nlohmann::json list_ = nlohmann::json::array();
};

Interval mean_difference(std::span<const double> a, std::span<const double> b, const BootstrapOptions& options) {
  std::vector<double> d(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) d[i] = a[i] - b[i];
  return bootstrap_mean(d, options);
}

nlohmann::json optional_number(std::optional<double> value) { return value ? nlohmann::json(*value) : nlohmann::json(nullptr); }

nlohmann::json click_quality(std::span<const double> p, std::span<const std::uint8_t> labels) {
  return {{"rows", p.size()}, {"auc", optional_number(auc(p, labels))}, {"logloss", p.empty() ? nlohmann::json(nullptr) : nlohmann::json(logloss(p, labels))}};
}

}  // namespace

std::map<std::int32_t, Explanation> newest_explanations(ExpctrSession& session) {
  std::map<std::int32_t, Explanation> newest;
  for (const char* stage : {"stage1", "stage3"}) {
    if (!session.stage_complete(stage)) continue;
    for (Explanation& e : ExplanationStore::read(explanation_file(session, stage))) newest[e.row] = std::move(e);
  }
  return newest;
}

void write_final_explanations(ExpctrSession& session) {
  const std::map<std::int32_t, Explanation> newest = newest_explanations(session);
  std::map<std::int32_t, std::string> untrained;
  for (const Explanation& e : ExplanationStore::read(explanation_file(session, "stage1", "untrained"))) untrained[e.row] = e.text;
  std::vector<const TextPair*> pairs;
  std::vector<std::int32_t> rows;
  std::vector<std::string> texts;
  for (const TextPair* pair : all_pairs(session)) {
    const auto found = newest.find(pair->pair.row);
    if (found == newest.end()) continue;
    pairs.push_back(pair);
    rows.push_back(pair->pair.row);
    texts.push_back(found->second.text);
  }
  std::optional<ClickModels::Probabilities> p;
  if (session.stage_complete("stage2")) p = ClickModels(session).of(rows, texts);
  const Dataset& data = session.data().dataset();
  const RewardConfig& reward = session.config().reward;
  std::string lines;
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const Pair& pair = pairs[i]->pair;
    const Explanation& e = newest.at(pair.row);
    nlohmann::json record = {{"user", data.interactions.users.text(pair.user)}, {"item", data.interactions.items.text(pair.item)}, {"label", pair.label},
                             {"split", split_name(pair.split)}, {"row", pair.row}, {"title", pairs[i]->context.target}, {"genres", pairs[i]->context.genres},
                             {"liked", pairs[i]->context.liked}, {"disliked", pairs[i]->context.disliked}, {"explanation", e.text}, {"untrained", nullptr},
                             {"p_lc", sigmoid_of(e.margin)}, {"p_lc_no_text", sigmoid_of(e.base_margin)}, {"p_ic", nullptr}, {"p_id", nullptr}, {"reward_lc", e.reward_lc}, {"reward_ic", nullptr},
                             {"policy", e.policy}, {"seed", e.seed}, {"tokens", e.tokens}};
    if (const auto base = untrained.find(pair.row); base != untrained.end()) record["untrained"] = base->second;
    if (p) {
      record["p_ic"] = p->p_ic[i];
      record["p_id"] = p->p_id[i];
      record["reward_ic"] = ic_reward(reward.ic_form, pair.label, p->p_ic[i], p->p_zero[i], p->p_id[i], reward.ic_clip);
    }
    lines += record.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }
  write_file_atomically(session.run().path() / "explanations.jsonl", lines);
}

namespace {

/// Test pairs with all their texts and margins, in the order of the sample.
struct HeldOut {
  std::vector<const TextPair*> pairs;
  std::vector<std::int32_t> rows;
  std::vector<std::uint8_t> labels;
  std::vector<std::string> untrained, stage1, final_texts, prompts;
  std::vector<std::string> shuffled;  ///< control: each pair reads the final text of another one
  std::vector<double> margin_untrained, margin_stage1, margin_final, margin_base, margin_shuffled;
};

HeldOut collect(ExpctrSession& session) {
  HeldOut h;
  std::map<std::int32_t, Explanation> stage1, untrained, newest = newest_explanations(session);
  for (Explanation& e : ExplanationStore::read(explanation_file(session, "stage1"))) stage1[e.row] = std::move(e);
  for (Explanation& e : ExplanationStore::read(explanation_file(session, "stage1", "untrained"))) untrained[e.row] = std::move(e);
  for (const TextPair& pair : session.test_pairs()) {
    const std::int32_t row = pair.pair.row;
    h.pairs.push_back(&pair);
    h.rows.push_back(row);
    h.labels.push_back(static_cast<std::uint8_t>(pair.pair.label));
    h.untrained.push_back(untrained.at(row).text);
    h.stage1.push_back(stage1.at(row).text);
    h.final_texts.push_back(newest.at(row).text);
    h.prompts.push_back(policy_prompt(pair.context, session.config().pairs.prompt).user);
    h.margin_untrained.push_back(untrained.at(row).margin);
    h.margin_stage1.push_back(stage1.at(row).margin);
    h.margin_final.push_back(newest.at(row).margin);
    h.margin_base.push_back(newest.at(row).base_margin);
  }
  for (std::size_t i = 0; i < h.pairs.size(); ++i) h.shuffled.push_back(h.final_texts[(i + 1 + h.pairs.size() / 3) % h.pairs.size()]);
  h.margin_shuffled = session.margins(h.pairs, h.shuffled);
  return h;
}

std::vector<double> deltas(const HeldOut& h, std::span<const double> margins) {
  std::vector<double> d;
  for (std::size_t i = 0; i < margins.size(); ++i) d.push_back(log_likelihood(h.labels[i], margins[i]) - log_likelihood(h.labels[i], h.margin_base[i]));
  return d;
}

std::vector<double> probabilities(std::span<const double> margins) {
  std::vector<double> p;
  for (const double m : margins) p.push_back(sigmoid_of(m));
  return p;
}

void scorer_figures(Figures& f, const HeldOut& h, const BootstrapOptions& b) {
  const std::string group = "Do the explanations help the language model predict the click?";
  f.add(group, "p_lc_no_text_auc", "AUC without explanation", bootstrap_auc(h.margin_base, h.labels, b), "how well the scorer ranks test pairs when it reads the history alone", false, "higher");
  f.add(group, "p_lc_auc", "AUC with explanation", bootstrap_auc(h.margin_final, h.labels, b), "the same scorer when it also reads the explanation of the trained policies", false, "higher");
  f.add(group, "p_lc_auc_gain", "AUC with minus without explanation", bootstrap_auc_difference(h.margin_final, h.margin_base, h.labels, b), "what reading the explanation adds to the ranking", true, "higher");
  f.add(group, "p_lc_auc_trained", "AUC, trained minus untrained explanations", bootstrap_auc_difference(h.margin_final, h.margin_untrained, h.labels, b), "what reinforcement learning adds to the explanations of the untouched model", true, "higher");
  const std::vector<double> final_delta = deltas(h, h.margin_final), base_delta = deltas(h, h.margin_untrained), stage1_delta = deltas(h, h.margin_stage1), shuffled = deltas(h, h.margin_shuffled);
  f.add(group, "mean_delta", "mean delta, nats", bootstrap_mean(final_delta, b), "mean of ln p(label | history, explanation) - ln p(label | history): what the method optimises", true, "higher");
  f.add(group, "mean_delta_untrained", "mean delta of untrained explanations, nats", bootstrap_mean(base_delta, b), "the same for the texts of the untouched model", true, "higher");
  f.add(group, "delta_trained", "mean delta, trained minus untrained", mean_difference(final_delta, base_delta, b), "what both stages of training changed", true, "higher");
  f.add(group, "delta_stage1", "mean delta, stage 1 minus untrained", mean_difference(stage1_delta, base_delta, b), "what stage 1 changed", true, "higher");
  f.add(group, "delta_own", "mean delta, own minus another pair's explanation", mean_difference(final_delta, shuffled, b), "control: above 0 when a text fits its own pair better than another one", true, "higher");
}

void click_figures(ExpctrSession& session, Figures& f, const HeldOut& h, const BootstrapOptions& b, nlohmann::json& groups) {
  ClickModels models(session);
  const ClickModels::Probabilities own = models.of(h.rows, h.final_texts), stage1 = models.of(h.rows, h.stage1), untrained = models.of(h.rows, h.untrained);
  const ClickModels::Probabilities other = models.of(h.rows, h.shuffled);
  const std::string group = "Do the explanations help the click model?";
  f.add(group, "p_id_auc", "AUC of the text-free click model", bootstrap_auc(own.p_id, h.labels, b), "the twin that never saw a text, on the same test pairs", false, "higher");
  f.add(group, "p_ic_auc", "AUC of the click model with explanations", bootstrap_auc(own.p_ic, h.labels, b), "the click model that reads the explanation's vector", false, "higher");
  f.add(group, "p_ic_auc_gain", "AUC with minus without text", bootstrap_auc_difference(own.p_ic, own.p_id, h.labels, b), "what the text adds to the click model", true, "higher");
  f.add(group, "p_ic_shuffled", "AUC, own minus another pair's text", bootstrap_auc_difference(own.p_ic, other.p_ic, h.labels, b), "control: whether it matters that the text belongs to the pair", true, "higher");
  const auto rewards = [&](const ClickModels::Probabilities& p) {
    std::vector<double> r;
    for (std::size_t i = 0; i < h.labels.size(); ++i) {
      r.push_back(ic_reward(session.config().reward.ic_form, h.labels[i], p.p_ic[i], p.p_zero[i], p.p_id[i], session.config().reward.ic_clip));
    }
    return r;
  };
  const std::vector<double> r_final = rewards(own), r_stage1 = rewards(stage1), r_untrained = rewards(untrained);
  f.add(group, "r_ic", "mean reward of the click model", bootstrap_mean(r_final, b), "mean r_IC of the final texts: the probability that the click model gives to what happened", false, "higher");
  f.add(group, "r_ic_stage3", "mean r_IC, stage 3 minus stage 1", mean_difference(r_final, r_stage1, b), "what stage 3 changed in what it optimises", true, "higher");
  f.add(group, "r_ic_trained", "mean r_IC, trained minus untrained", mean_difference(r_final, r_untrained, b), "what both stages changed", true, "higher");
  std::vector<double> agree;
  for (std::size_t i = 0; i < h.labels.size(); ++i) agree.push_back((h.margin_final[i] > 0.0) == (own.p_ic[i] > 0.5) ? 1.0 : 0.0);
  f.add(group, "agreement", "both predictors on one side of one half", bootstrap_mean(agree, b), "share of pairs where the language model and the click model predict the same", false, "");
  groups["p_ic"] = click_quality(own.p_ic, h.labels);
  groups["p_id"] = click_quality(own.p_id, h.labels);

  const std::vector<std::int32_t>& all = session.ctr_data().rows.rows_of(Split::test);
  const std::vector<double> p_all = predict_clicks(models.text_free(), session.ctr_data().rows, all);
  std::vector<std::uint8_t> labels;
  for (const std::int32_t row : all) labels.push_back(session.ctr_data().rows.label(row));
  groups["test_all_rows"] = click_metrics(session.ctr_data().rows, all, p_all);
  f.add_plain(group, "p_id_auc_all", "AUC of the text-free click model on all test rows", auc(p_all, labels).value_or(NAN), "the click model alone, on the whole test split", "higher");
}

void text_figures(ExpctrSession& session, Figures& f, const HeldOut& h, const BootstrapOptions& b, nlohmann::json& metrics) {
  const std::string group = "What are the texts like?";
  std::vector<double> changed;
  for (std::size_t i = 0; i < h.final_texts.size(); ++i) changed.push_back(h.final_texts[i] != h.untrained[i] ? 1.0 : 0.0);
  f.add(group, "changed", "share of texts that training changed", bootstrap_mean(changed, b), "test pairs whose final text differs from the untouched model's", false, "");
  metrics["distinct_1"] = distinct_n(h.final_texts, 1);
  metrics["distinct_2"] = distinct_n(h.final_texts, 2);
  metrics["usr"] = unique_text_ratio(h.final_texts);
  f.add_plain(group, "distinct_1", "distinct-1", metrics["distinct_1"], "different words over all words", "higher");
  f.add_plain(group, "distinct_2", "distinct-2", metrics["distinct_2"], "different word pairs over all word pairs", "higher");
  f.add_plain(group, "usr", "share of distinct texts", metrics["usr"], "1 when no two pairs got the same text; near 0 when the policy writes one text for all", "higher");
  f.add_plain(group, "words", "mean length, words", mean_words(h.final_texts), "length of the final texts", "");
  f.add_plain(group, "quoted", "quoted titles that are not in the prompt", count_quoted_titles(h.final_texts, h.prompts).share(), "share of quoted titles that the model made up", "lower");
  // Sequence KL: of the last step of each policy in the last stage of training.
  std::map<int, double> kl;
  std::ifstream log(session.run().path() / "log.jsonl");
  for (std::string line; std::getline(log, line);) {
    const nlohmann::json record = nlohmann::json::parse(line, nullptr, false);
    if (record.is_object() && record.value("job", "") == "stage3" && record.contains("objective/kl") && record["objective/kl"].is_number()) kl[record.value("fold", 0)] = record["objective/kl"];
  }
  double mean_kl = 0.0;
  for (const auto& [fold, value] : kl) mean_kl += value / static_cast<double>(kl.size());
  metrics["sequence_kl"] = kl.empty() ? nlohmann::json(nullptr) : nlohmann::json(mean_kl);
  if (!kl.empty()) f.add_plain(group, "sequence_kl", "KL from the untouched model, nats per text", mean_kl, "how far the policies moved, at their last training step; healthy below about 10", "lower");
}

void leakage_figures(ExpctrSession& session, Figures& f, const HeldOut& h, nlohmann::json& metrics) {
  std::vector<Explanation> train, test;
  std::vector<std::uint8_t> train_labels;
  const std::map<std::int32_t, Explanation> newest = newest_explanations(session);
  for (const TextPair& pair : session.train_pairs()) {
    train.push_back(newest.at(pair.pair.row));
    train_labels.push_back(static_cast<std::uint8_t>(pair.pair.label));
  }
  for (const std::int32_t row : h.rows) test.push_back(newest.at(row));
  const TextVectors a = embed_explanations(session, train), b = embed_explanations(session, test);
  const LeakageReport report = leakage_probe(a.values, train_labels, b.values, h.labels, a.width);
  metrics["leakage_probe"] = {{"train_auc", report.train_auc}, {"held_out_train_auc", report.held_out_train_auc}, {"test_auc", report.test_auc}, {"gap", report.gap()}, {"held_out_gap", report.held_out_gap()}};
  const std::string group = "Does training text give labels away?";
  f.add_plain(group, "probe_test", "AUC of a text-only probe on test texts", report.test_auc, "a logistic regression that reads nothing but the text's vector", "");
  f.add_plain(group, "probe_held_out", "the same on training texts it did not see", report.held_out_train_auc, "five parts, each predicted by a probe of the others", "");
  f.add_plain(group, "leakage", "held-out training AUC minus test AUC", report.held_out_gap(), "near 0: training texts carry no more of the label than test texts", "lower");
  f.add_plain(group, "leakage_fit", "fitted training AUC minus test AUC", report.gap(), "the plain form of the check; with few texts the probe memorises, which makes it large without any leakage", "lower");
}

std::vector<nlohmann::json> reductions(const ExpctrSession& session) {
  const ExpctrConfig& c = session.config();
  std::vector<nlohmann::json> list;
  const auto add = [&](const char* what, std::string here, const char* full) { list.push_back({{"what", what}, {"here", std::move(here)}, {"full", full}}); };
  if (c.counts.train != 0) add("training pairs with text", fmt::format("{}", c.counts.train), "all training rows");
  if (c.counts.valid != 0) add("validation pairs with text", fmt::format("{}", c.counts.valid), "all validation rows");
  if (c.counts.test != 0) add("test pairs with text", fmt::format("{}", c.counts.test), "all test rows");
  if (c.counts.sft != 0) add("pairs that tune the scorer", fmt::format("{}", c.counts.sft), "all rows of the scorer share");
  if (c.ppo.steps < 100) add("PPO steps per policy and stage", fmt::format("{}", c.ppo.steps), "100");
  if (c.ppo.batch < 128) add("rollouts per PPO step", fmt::format("{}", c.ppo.batch), "128");
  if (c.ppo.epochs < 4) add("PPO epochs per step", fmt::format("{}", c.ppo.epochs), "4");
  if (c.ppo.max_new_tokens < 64) add("longest explanation, tokens", fmt::format("{}", c.ppo.max_new_tokens), "64");
  if (c.pairs.prompt.max_liked < 10) add("titles per list in a prompt", fmt::format("{} liked, {} disliked", c.pairs.prompt.max_liked, c.pairs.prompt.max_disliked), "10 liked, 10 disliked");
  if (c.lora_layers != "all") add("layers with adapters", c.lora_layers, "all");
  if (c.refresh != "all") add("pairs explained again after stage 3", c.refresh == "eval" ? "validation and test" : "none", "all");
  return list;
}

}  // namespace

void run_evaluate(ExpctrSession& session) {
  session.require_stage("stage1");
  session.require_stage("stage2");
  session.require_stage("stage3");
  const auto start = std::chrono::steady_clock::now();
  write_final_explanations(session);
  const HeldOut h = collect(session);
  const BootstrapOptions b{2000, session.config().seed, 0.95};
  Figures figures;
  nlohmann::json metrics = {{"job", "expctr"}, {"seed", session.config().seed}, {"model", session.llm().name()}, {"data", session.data().dataset().name}}, groups;
  groups["p_lc"] = click_quality(probabilities(h.margin_final), h.labels);
  groups["p_lc_no_text"] = click_quality(probabilities(h.margin_base), h.labels);
  scorer_figures(figures, h, b);
  click_figures(session, figures, h, b, groups);
  text_figures(session, figures, h, b, metrics);
  leakage_figures(session, figures, h, metrics);
  double mean_delta = 0.0;
  for (const double d : deltas(h, h.margin_final)) mean_delta += d / static_cast<double>(h.rows.size());
  metrics["mean_delta"] = mean_delta;
  for (const char* key : {"p_lc", "p_lc_no_text", "p_ic", "p_id"}) metrics[key] = groups[key];
  metrics["test"] = groups["test_all_rows"];
  metrics["valid"] = {{"auc", session.stage_details("stage2").value("/text_free/valid_auc"_json_pointer, nlohmann::json(nullptr))}};
  metrics["counts"] = {{"train_pairs", session.train_pairs().size()}, {"valid_pairs", session.valid_pairs().size()}, {"test_pairs", session.test_pairs().size()},
                       {"sft_pairs", session.sft_pairs().size()}, {"train_rows", session.ctr_data().rows.rows_of(Split::train).size()}};
  metrics["train"] = {{"rows", session.ctr_data().rows.rows_of(Split::train).size()}, {"steps", session.config().ppo.steps * session.config().pairs.folds.folds * 2}};
  for (const char* stage : {"sft", "stage1", "stage2", "stage3"}) {
    if (session.stage_complete(stage)) metrics["stages"][stage] = session.stage_details(stage);
  }
  metrics["frozen"] = {{"base_hash", session.base_hash()}, {"scorer_hash", session.stage_details("stage3").value("scorer_hash", "")},
                       {"encoder_hash", session.stage_details("stage3").value("encoder_hash", "")}, {"ctr_hash", session.stage_details("stage3").value("ctr_hash", "")}};
  metrics["figures"] = figures.take();
  metrics["reduced"] = reductions(session);
  metrics["full_commands"] = {"./expctr_engine run expctr --config configs/expctr/ml100k.yaml"};
  // Of all stages and this evaluation; of a resumed stage only its last process is known.
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  for (const nlohmann::json& stage : metrics["stages"]) seconds += stage.value("seconds", 0.0);
  metrics["seconds"] = seconds;
  session.run().write_metrics(metrics);
  for (const nlohmann::json& figure : metrics["figures"]) {
    const auto shown = [](const nlohmann::json& v) { return v.is_number() ? fmt::format("{:+.4f}", v.get<double>()) : std::string("-"); };
    log_info("  {:<52} {}  [{}, {}]", figure["name"].get<std::string>(), shown(figure["value"]), shown(figure["low"]), shown(figure["high"]));
  }
}

}  // namespace expctr
