#include "trainers/jobs.h"

#include "trainers/ctr/ctr_job.h"
#include "trainers/expctr/stages.h"

namespace expctr {

std::vector<Job> all_jobs() {
  return {
      {"expctr", "ExpCTR from start to end: sft, stage1, stage2, stage3, evaluate, report", job_expctr},
      {"sft", "tune the Yes/No scorer of ExpCTR", job_sft},
      {"stage1", "train one policy per fold by PPO on the scorer's reward, then explain all pairs", job_stage1},
      {"stage2", "train the click model with and without the explanations", job_stage2},
      {"stage3", "go on with the policies, the click model's reward added", job_stage3},
      {"evaluate", "figures of a finished run on held-out pairs", job_evaluate},
      ctr_job(),
      {"explain", "explanation and probabilities of one user and item", job_explain},
  };
}

}  // namespace expctr
