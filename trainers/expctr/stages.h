// The jobs of ExpCTR, stage by stage (specs expctr.md, section 7).
#pragma once

#include "trainers/expctr/session.h"

namespace expctr {

/// sft: the scorer's Yes/No adapter learns on pairs of the scorer share, prompts without explanation.
void run_sft(ExpctrSession& session);
/// Stage 1: one policy per fold learns, by PPO, explanations that make the scorer predict the click; then all pairs are explained.
void run_stage1(ExpctrSession& session);
/// Stage 2: the click model learns with and without the explanations' vectors.
void run_stage2(ExpctrSession& session);
/// Stage 3: the policies go on with the click model's reward added; then pairs are explained again.
void run_stage3(ExpctrSession& session);
/// Metrics of the finished stages on held-out pairs, into metrics.json.
void run_evaluate(ExpctrSession& session);
/// report.html out of metrics.json, log.jsonl and explanations.jsonl.
void run_report(ExpctrSession& session);
/// One pair: explanation and probabilities, on stdout.
void run_explain(ExpctrSession& session);

/// The same as jobs of the command line.
void job_sft(const RunOptions& options);
void job_stage1(const RunOptions& options);
void job_stage2(const RunOptions& options);
void job_stage3(const RunOptions& options);
void job_evaluate(const RunOptions& options);
void job_explain(const RunOptions& options);
/// sft, stage1, stage2, stage3, evaluate, report; what is complete is not done again.
void job_expctr(const RunOptions& options);

}  // namespace expctr
