// What all stages of ExpCTR share in one process: data, prompts, the language model with its store of prompt prefixes, and the run's folder.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "inference/answer_scorer.h"
#include "inference/ctr_scorer.h"
#include "inference/embedder.h"
#include "inference/language_model.h"
#include "inference/prefix_store.h"
#include "trainers/ctr/ctr_data.h"
#include "trainers/expctr/config.h"
#include "trainers/run_directory.h"

namespace expctr {

/// A pair with everything the language model reads of it.
struct TextPair {
  Pair pair;
  PromptContext context;  ///< cut to the token budget
  Tokens policy_prompt;
};

class ExpctrSession {
 public:
  /// Loads data and model; makes or opens the run's folder.
  ExpctrSession(const RunOptions& options, std::string_view built_in_config);
  ExpctrSession(const ExpctrSession&) = delete;
  ExpctrSession& operator=(const ExpctrSession&) = delete;

  const ExpctrConfig& config() const { return config_; }
  const RunOptions& options() const { return options_; }
  RunDirectory& run() { return run_; }
  const PairData& data() const { return data_; }
  const LanguageModel& llm() const { return llm_; }
  PrefixStore& store() { return *store_; }
  const LoraConfig& lora() const { return lora_; }
  Device device() const { return device_; }
  const std::string& base_hash() const { return base_hash_; }
  LanguageModel::Answers answers() const { return answers_; }

  /// The sampled pairs with text of a split, in the order of the sample; sft: training pairs of the scorer share.
  const std::vector<TextPair>& train_pairs();
  const std::vector<TextPair>& valid_pairs();
  const std::vector<TextPair>& test_pairs();
  const std::vector<TextPair>& sft_pairs();
  TextPair text_pair(const Pair& pair) const;
  TextPair text_pair(const Pair& pair, PromptContext context) const;

  Tokens scorer_prompt(const TextPair& pair, std::string_view remark) const;

  /// The scorer's adapter from the run's folder (null for scorer.type: base). Throws UsageError when sft has not run.
  const LoraAdapter* scorer_adapter();
  /// Margins without explanation, computed once per pair; keyed by row.
  std::vector<double> base_margins(std::span<const TextPair* const> pairs);
  /// Margins with these explanations.
  std::vector<double> margins(std::span<const TextPair* const> pairs, std::span<const std::string> texts);

  /// The frozen text encoder, loaded on first use.
  const Embedder& encoder();
  std::string encoder_hash();
  /// Features and rows for click models, prepared on first use; row numbers are those of data().
  const CtrData& ctr_data();

  /// Folder of a stage's results, and its mark that it is complete.
  std::filesystem::path stage_folder(std::string_view stage) const { return run_.path() / stage; }
  bool stage_complete(std::string_view stage) const;
  /// Throws UsageError, naming the command that comes first, unless the stage is complete with this configuration.
  void require_stage(std::string_view stage) const;
  /// `details` is completed by the stage's identity and "seconds", the time since begin_stage in this process.
  void mark_complete(std::string_view stage, nlohmann::json details);
  nlohmann::json stage_details(std::string_view stage) const;
  std::string stage_identity(std::string_view stage) const { return config_.identity(stage_sections(stage)); }
  /// Opens a stage for work and writes config.yaml. False when it is complete already. With --resume never its results are dropped first. Throws UsageError when results of another
  /// configuration stand there: they are not overwritten unasked.
  bool begin_stage(std::string_view stage);
  /// Where `job` of a stage goes on: its newest checkpoint, or the one that --resume names. Throws UsageError when that belongs to another configuration.
  std::optional<Checkpoint> resume_point(std::string_view job, std::string_view stage);

  /// Throws Error unless the base weights still have the hash they were loaded with.
  void check_frozen() const;
  /// Between steps: throws InterruptedError when a signal came; the caller has written its checkpoint.
  void stop_if_interrupted(std::string_view job) const;

 private:
  ExpctrSession(const RunOptions& options, const Config& config);
  /// What a user types to run a stage here.
  std::string command_of(std::string_view stage) const;
  std::string identity_of(std::string_view resolved_yaml, std::string_view stage) const;
  std::vector<TextPair> sample(Split split, std::optional<int> fold, std::int64_t count) const;

  RunOptions options_;
  ExpctrConfig config_;
  Device device_;
  RunDirectory run_;
  PairData data_;
  LanguageModel llm_;
  LoraConfig lora_;
  std::unique_ptr<PrefixStore> store_;
  LanguageModel::Answers answers_;
  std::string base_hash_;
  std::optional<std::vector<TextPair>> train_, valid_, test_, sft_;
  std::unique_ptr<LoraAdapter> scorer_;
  std::unique_ptr<Embedder> encoder_;
  std::unique_ptr<CtrData> ctr_data_;
  std::map<std::int32_t, double> base_margins_;
  std::chrono::steady_clock::time_point stage_begin_;
};

}  // namespace expctr
