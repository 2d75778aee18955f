// The job `ctr`: a text-free click model on a rated catalogue.
#pragma once

#include "trainers/run_options.h"

namespace expctr {

/// Trains with early stopping, measures validation and test rows, writes model.safetensors and metrics.json into the run's folder.
void run_ctr(const RunOptions& options);

/// The row for the table of jobs.
Job ctr_job();

}  // namespace expctr
