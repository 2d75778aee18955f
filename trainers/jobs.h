// The table of jobs: what `run <job>` can do.
//
// A new job is one file trainers/<job>.cpp with `void run_<job>(const RunOptions&)`, its declaration in a header beside it, and one row in
// jobs.cpp.
#pragma once

#include <vector>

#include "trainers/run_options.h"

namespace expctr {

/// All jobs of this build, in the order in which --help lists them.
std::vector<Job> all_jobs();

}  // namespace expctr
