// report.html of a run, out of the files that its stages wrote.
#include "engine/io/durable_file.h"
#include "engine/log/logger.h"
#include "trainers/expctr/report.h"
#include "trainers/expctr/stages.h"

namespace expctr {

void run_report(ExpctrSession& session) {
  const std::filesystem::path file = session.run().path() / "report.html";
  write_file_atomically(file, render_report(read_report_input(session.run().path())));
  log_info("report  {}", file.string());
}

}  // namespace expctr
