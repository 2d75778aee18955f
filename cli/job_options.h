// What the commands that start a job share: `run`, `explain`, `evaluate`.
#pragma once

#include <string_view>
#include <vector>

#include "cli/commands.h"

namespace expctr {

/// The job of that name; UsageError naming the nearest and all known ones otherwise.
const Job& find_job(const std::vector<Job>& jobs, std::string_view name);

/// Throws UsageError unless `device` is cpu, cuda or cuda:N (with a CUDA build), or "".
void check_device(std::string_view device);

/// Fills in what the global options say and starts the job; an interrupt from now on is a request to stop.
void start_job(const Job& job, RunOptions options, const GlobalOptions& global);

/// Options for a job on the finished run in `run`: its configuration, its folder. UsageError when there is no finished run there.
RunOptions options_of_finished_run(const std::filesystem::path& run);

}  // namespace expctr
