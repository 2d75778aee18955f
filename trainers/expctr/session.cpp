#include "trainers/expctr/session.h"

#include <fmt/format.h>

#include "base/error.h"
#include "data/fetch.h"
#include "engine/io/durable_file.h"
#include "engine/log/logger.h"
#include "engine/log/process.h"
#include "models/parameters.h"
#include "models/peft.h"

namespace expctr {
namespace {

constexpr std::string_view complete_file = "complete.json", started_file = "started.json";

// Room for the sequences of one generation batch and one chunk of prompts, in pages of the lower blocks.
std::int64_t working_pages(const ExpctrConfig& config) {
  const std::int64_t longest = KvCache::pages_for(config.pairs.prompt.max_tokens + config.ppo.max_new_tokens) + 1;
  return longest * (std::max(config.explain_batch, config.ppo.batch) + 2) + KvCache::pages_for(forward_token_budget) * 2;
}

}  // namespace

ExpctrSession::ExpctrSession(const RunOptions& options, std::string_view built_in_config) : ExpctrSession(options, load_run_config(options, built_in_config)) {}

ExpctrSession::ExpctrSession(const RunOptions& options, const Config& config)
    : options_(options),
      config_(read_expctr_config(config)),
      device_(parse_device(config_.device)),
      run_(options.out),
      data_(load_pairs(resolve_asset(config_.data_path), config_.pairs)),
      llm_(LanguageModel::load(resolve_asset(config_.llm_path), DecoderLoadOptions{device_, config_.compute})),
      lora_(config_.lora(llm_.decoder().config())) {
  for (const std::string& warning : data_.dataset().interactions.warnings) log_warning("{}", warning);
  store_ = std::make_unique<PrefixStore>(llm_.decoder(), lora_.first_layer, config_.cache_bytes, working_pages(config_));
  base_hash_ = llm_.weights_hash();
  PromptContext any;
  any.target = "a title";
  answers_ = llm_.answers(expctr::scorer_prompt(any, config_.pairs.prompt));
  const DecoderConfig& c = llm_.decoder().config();
  std::int64_t trained = 0;
  for (const NamedTensor& p : LoraAdapter(c, lora_, 0, DType::f32, cpu_device, false).parameters()) trained += p.tensor.size();
  log_info("{}  {} rows, {} users, {} items", data_.dataset().name, data_.rows(), data_.dataset().interactions.users.size(), data_.dataset().interactions.items.size());
  log_info("{}  {} layers, width {}, frozen  adapters in layers {} to {}, {} parameters trained each", llm_.name(), c.layers, c.width, lora_.first_layer, lora_.last_layer - 1, trained);
}

std::vector<TextPair> ExpctrSession::sample(Split split, std::optional<int> fold, std::int64_t count) const {
  const PairFilter filter{split, fold};
  const std::vector<Pair> pairs = count == 0 ? select_pairs(data_, filter) : sample_pairs(data_, filter, count, config_.seed);
  std::vector<TextPair> result;
  for (const Pair& pair : pairs) result.push_back(text_pair(pair));
  return result;
}

TextPair ExpctrSession::text_pair(const Pair& pair) const { return text_pair(pair, data_.context(pair)); }

TextPair ExpctrSession::text_pair(const Pair& pair, PromptContext context) const {
  TextPair result;
  result.pair = pair;
  const TokenCounter count = [this](std::string_view text) { return static_cast<int>(llm_.tokenizer().encode(text, false).size()); };
  result.context = fit_context(std::move(context), config_.pairs.prompt, count);
  result.policy_prompt = llm_.encode(policy_prompt(result.context, config_.pairs.prompt));
  return result;
}

const std::vector<TextPair>& ExpctrSession::train_pairs() {
  if (!train_) train_ = sample(Split::train, std::nullopt, config_.counts.train);
  return *train_;
}
const std::vector<TextPair>& ExpctrSession::valid_pairs() {
  if (!valid_) valid_ = sample(Split::valid, std::nullopt, config_.counts.valid);
  return *valid_;
}
const std::vector<TextPair>& ExpctrSession::test_pairs() {
  if (!test_) test_ = sample(Split::test, std::nullopt, config_.counts.test);
  return *test_;
}
const std::vector<TextPair>& ExpctrSession::sft_pairs() {
  if (!sft_) sft_ = sample(Split::train, scorer_fold, config_.counts.sft);
  return *sft_;
}

Tokens ExpctrSession::scorer_prompt(const TextPair& pair, std::string_view remark) const {
  return llm_.encode(expctr::scorer_prompt(pair.context, config_.pairs.prompt, remark));
}

const LoraAdapter* ExpctrSession::scorer_adapter() {
  if (config_.scorer_base) return nullptr;
  if (scorer_ == nullptr) {
    require_stage("sft");
    scorer_ = std::make_unique<LoraAdapter>(load_peft(stage_folder("sft") / "scorer", llm_.decoder().config(), DType::f32, device_, false));
    if (hash_of(scorer_->parameters()) != stage_details("sft").value("adapter_hash", "")) {
      throw InputError(fmt::format("{}: the scorer's adapter is not the one that sft wrote", (stage_folder("sft") / "scorer").string()), "run sft again: expctr_engine run sft --resume never");
    }
  }
  return scorer_.get();
}

std::vector<double> ExpctrSession::base_margins(std::span<const TextPair* const> pairs) {
  std::vector<Tokens> prompts;
  std::vector<std::int32_t> rows;
  for (const TextPair* pair : pairs) {
    if (!base_margins_.contains(pair->pair.row) && std::find(rows.begin(), rows.end(), pair->pair.row) == rows.end()) {
      prompts.push_back(scorer_prompt(*pair, {}));
      rows.push_back(pair->pair.row);
    }
  }
  AnswerScorer scorer(*store_, scorer_adapter(), answers_);
  const std::vector<double> computed = scorer.margins(prompts);
  for (std::size_t i = 0; i < rows.size(); ++i) base_margins_[rows[i]] = computed[i];
  std::vector<double> result;
  for (const TextPair* pair : pairs) result.push_back(base_margins_.at(pair->pair.row));
  return result;
}

std::vector<double> ExpctrSession::margins(std::span<const TextPair* const> pairs, std::span<const std::string> texts) {
  std::vector<Tokens> prompts;
  for (std::size_t i = 0; i < pairs.size(); ++i) prompts.push_back(scorer_prompt(*pairs[i], texts[i]));
  return AnswerScorer(*store_, scorer_adapter(), answers_).margins(prompts);
}

const Embedder& ExpctrSession::encoder() {
  if (encoder_ == nullptr) encoder_ = std::make_unique<Embedder>(resolve_asset(config_.encoder_path), device_);
  return *encoder_;
}

std::string ExpctrSession::encoder_hash() { return hash_of(encoder().encoder().weights()); }

const CtrData& ExpctrSession::ctr_data() {
  if (ctr_data_ == nullptr) ctr_data_ = std::make_unique<CtrData>(load_ctr_data(resolve_asset(config_.data_path), config_.ctr_data, config_.ctr));
  return *ctr_data_;
}

bool ExpctrSession::stage_complete(std::string_view stage) const {
  const std::filesystem::path path = stage_folder(stage) / complete_file;
  return std::filesystem::exists(path) && stage_details(stage).value("identity", "") == stage_identity(stage);
}

nlohmann::json ExpctrSession::stage_details(std::string_view stage) const {
  const std::filesystem::path path = stage_folder(stage) / complete_file;
  std::ifstream file(path);
  try {
    return nlohmann::json::parse(file);
  } catch (const nlohmann::json::exception&) {
    throw InputError(fmt::format("{}: cannot be read", path.string()), fmt::format("run the stage again: expctr_engine run {} --resume never", stage));
  }
}

void ExpctrSession::require_stage(std::string_view stage) const {
  const std::filesystem::path path = stage_folder(stage) / complete_file;
  if (!std::filesystem::exists(path)) {
    throw UsageError(fmt::format("{} has not run in {}", stage, run_.path().string()), fmt::format("run it first: {}", command_of(stage)));
  }
  if (!stage_complete(stage)) {
    throw UsageError(fmt::format("{} in {} was run with another configuration", stage, run_.path().string()),
                     fmt::format("run it again with this one ({} --resume never), or choose another --out", command_of(stage)));
  }
}

void ExpctrSession::mark_complete(std::string_view stage, nlohmann::json details) {
  details["identity"] = stage_identity(stage);
  details["seconds"] = std::chrono::duration<double>(std::chrono::steady_clock::now() - stage_begin_).count();
  make_folders(stage_folder(stage));
  write_file_atomically(stage_folder(stage) / complete_file, details.dump(2) + "\n");
}

bool ExpctrSession::begin_stage(std::string_view stage) {
  stage_begin_ = std::chrono::steady_clock::now();
  const std::filesystem::path folder = stage_folder(stage), started = folder / started_file;
  if (options_.resume == "never") {
    std::filesystem::remove_all(folder);
  } else if (stage_complete(stage)) {
    log_info("{}  complete already", stage);
    return false;
  }
  if (std::filesystem::exists(started)) {
    std::ifstream file(started);
    const nlohmann::json state = nlohmann::json::parse(file, nullptr, false);
    if (!state.is_object() || state.value("identity", "") != stage_identity(stage)) {
      throw UsageError(fmt::format("{} in {} was started with another configuration", stage, run_.path().string()),
                       "start it anew with --resume never (its results there are dropped), or choose another --out");
    }
  } else {
    std::filesystem::remove_all(folder);
    run_.resume_point(stage, "never");  // checkpoints without a started stage belong to nothing
    make_folders(folder);
    write_file_atomically(started, nlohmann::json{{"identity", stage_identity(stage)}}.dump() + "\n");
  }
  remove_unfinished_files(folder);
  // Only now: a command that was refused leaves the configuration of the results that stand here.
  run_.write_config(config_.resolved);
  return true;
}

std::string ExpctrSession::command_of(std::string_view stage) const {
  return fmt::format("expctr_engine run {}{} --out {}", stage, options_.config ? " --config " + options_.config->string() : "", run_.path().string());
}

std::string ExpctrSession::identity_of(std::string_view resolved_yaml, std::string_view stage) const {
  ExpctrConfig other;
  other.resolved = resolved_yaml;
  return other.identity(stage_sections(stage));
}

std::optional<Checkpoint> ExpctrSession::resume_point(std::string_view job, std::string_view stage) {
  std::optional<Checkpoint> checkpoint = run_.resume_point(job, options_.resume);
  if (checkpoint && identity_of(checkpoint->config(), stage) != stage_identity(stage)) {
    throw UsageError(fmt::format("{}: the checkpoint was written with another configuration", checkpoint->folder().string()),
                     "start this stage anew with --resume never, or choose another --out");
  }
  return checkpoint;
}

void ExpctrSession::check_frozen() const {
  if (llm_.weights_hash() != base_hash_) throw Error("the base model's weights changed during the run", "this is a bug: please report it");
}

void ExpctrSession::stop_if_interrupted(std::string_view job) const {
  if (!interrupt_requested()) return;
  throw InterruptedError(fmt::format("{} was interrupted; a checkpoint is written", job), fmt::format("go on with the same command; the run is in {}", run_.path().string()));
}

}  // namespace expctr
