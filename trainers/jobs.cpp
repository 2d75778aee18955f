#include "trainers/jobs.h"

#include "trainers/ctr/ctr_job.h"

namespace expctr {

std::vector<Job> all_jobs() { return {ctr_job()}; }

}  // namespace expctr
