#include "trainers/run_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"
#include "engine/io/phase.h"
#include "engine/log/logger.h"
#include "engine/log/process.h"

namespace expctr {
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

int lock_folder(const fs::path& folder) {
  const fs::path path = folder / ".lock";
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor < 0) throw_file_error(errno, "write", path);
  if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) {
    // Only for people who look: the lock itself is the kernel's and ends with the process.
    const std::string owner = fmt::format("{}\n", ::getpid());
    if (::ftruncate(descriptor, 0) == 0 && ::pwrite(descriptor, owner.data(), owner.size(), 0) > 0) return descriptor;
    return descriptor;
  }
  const int error = errno;
  std::array<char, 16> owner{};
  const bool known = ::pread(descriptor, owner.data(), owner.size() - 1, 0) > 1;
  ::close(descriptor);
  if (error != EWOULDBLOCK) throw_file_error(error, "lock", path);
  const std::string process =
      known ? fmt::format(" (process {})", std::string(owner.data()).substr(0, std::string_view(owner.data()).find('\n'))) : "";
  throw UsageError(fmt::format("another process works in '{}'{}", folder.string(), process),
                   "wait for it, or choose another folder with --out");
}

std::optional<Checkpoint> latest_of(const fs::path& folder) {
  return Checkpoint::open_latest(folder, [](const std::string& text) { log_warning("{}", text); });
}

}  // namespace

RunDirectory::RunDirectory(const fs::path& out) : path_(out) {
  make_folders(path_);
  lock_ = lock_folder(path_);
  try {
    for (const char* name : {"config.yaml", "metrics.json", "log.jsonl", "explanations.jsonl", "report.html"}) remove_unfinished_files(path_ / name);
    open_phase_file(path_ / ".phase");
  } catch (...) {
    ::close(lock_);
    throw;
  }
}

RunDirectory::~RunDirectory() {
  close_phase_file();
  ::close(lock_);
}

fs::path RunDirectory::checkpoints(std::string_view job) const { return path_ / "checkpoints" / job; }

std::optional<Checkpoint> RunDirectory::resume_point(std::string_view job, std::string_view resume) {
  if (resume == "auto") return latest_of(checkpoints(job));
  if (resume == "never") {
    std::error_code error;
    fs::remove_all(checkpoints(job), error);
    if (error) throw_file_error(error.value(), "remove", checkpoints(job));
    return std::nullopt;
  }
  const fs::path folder(resume);
  if (!fs::is_directory(folder)) {
    throw UsageError(fmt::format("--resume {}: no such folder", resume), "write auto, never, or the path of a checkpoint or of a run");
  }
  if (fs::exists(folder / "manifest.json")) return Checkpoint::open(folder);
  for (const fs::path& candidate : {folder, folder / job, folder / "checkpoints" / job}) {
    if (auto found = latest_of(candidate)) return found;
  }
  throw UsageError(fmt::format("--resume {}: no checkpoint of job '{}' there", resume, job),
                   "name a folder that holds one, or use --resume auto");
}

void RunDirectory::begin_log(std::string_view job, std::optional<std::int64_t> resumed_step) {
  job_ = job;
  log_.emplace(MetricsLog::resume(path_ / "log.jsonl", [&](const json& record) {
    if (record.value("job", json()) != job_) return true;
    const json step = record.value("step", json());
    return resumed_step && step.is_number_integer() && step.get<std::int64_t>() <= *resumed_step;
  }));
  std::error_code error;
  if (!resumed_step) fs::remove_all(path_ / "events" / job_, error);
  if (error) throw_file_error(error.value(), "remove", path_ / "events" / job_);
  events_.emplace(path_ / "events" / job_, resumed_step);
}

void RunDirectory::log(std::int64_t step, json record) {
  if (!log_) throw Error("a step is logged before the log was begun");
  std::vector<std::pair<std::string, double>> scalars;
  for (const auto& [key, value] : record.items()) {
    if (value.is_number()) scalars.emplace_back(key, value.get<double>());
  }
  record["job"] = job_;
  record["step"] = step;
  log_->append(record);
  if (!scalars.empty()) events_->scalars(scalars, step);
}

void RunDirectory::sync_log() {
  if (!log_) return;
  log_->sync();
  events_->sync();
}

void RunDirectory::write_config(std::string_view resolved_yaml) { write_file_atomically(path_ / "config.yaml", resolved_yaml); }

void RunDirectory::write_metrics(json metrics) {
  if (!metrics.contains("peak_bytes")) metrics["peak_bytes"] = peak_memory_bytes();
  write_file_atomically(path_ / "metrics.json", metrics.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
}

}  // namespace expctr
