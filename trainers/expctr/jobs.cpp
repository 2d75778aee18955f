// ExpCTR's jobs as the command line starts them.
#include <chrono>

#include "engine/log/logger.h"
#include "trainers/expctr/evaluate.h"
#include "trainers/expctr/stages.h"

namespace expctr {

void job_sft(const RunOptions& options) {
  ExpctrSession session(options, quickstart_yaml());
  run_sft(session);
}

void job_stage1(const RunOptions& options) {
  ExpctrSession session(options, quickstart_yaml());
  // The scorer is part of this stage's reward; `run stage1` as typed makes it when it is not there.
  if (!session.config().scorer_base && !session.stage_complete("sft")) run_sft(session);
  run_stage1(session);
  write_final_explanations(session);
}

void job_stage2(const RunOptions& options) {
  ExpctrSession session(options, quickstart_yaml());
  run_stage2(session);
  write_final_explanations(session);
}

void job_stage3(const RunOptions& options) {
  ExpctrSession session(options, quickstart_yaml());
  run_stage3(session);
  write_final_explanations(session);
}

void job_evaluate(const RunOptions& options) {
  ExpctrSession session(options, quickstart_yaml());
  run_evaluate(session);
}

void job_explain(const RunOptions& options) {
  ExpctrSession session(options, quickstart_yaml());
  run_explain(session);
}

void job_expctr(const RunOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  ExpctrSession session(options, quickstart_yaml());
  if (!session.config().scorer_base) run_sft(session);
  run_stage1(session);
  run_stage2(session);
  run_stage3(session);
  run_evaluate(session);
  run_report(session);
  log_info("done in {:.0f} s", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

}  // namespace expctr
