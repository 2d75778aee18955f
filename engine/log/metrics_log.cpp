#include "engine/log/metrics_log.h"

namespace expctr {

using nlohmann::json;

MetricsLog MetricsLog::fresh(const std::filesystem::path& path) { return MetricsLog(path, AppendFile::Mode::fresh); }

MetricsLog MetricsLog::resume(const std::filesystem::path& path, const Keep& keep) {
  std::ifstream file(path, std::ios::binary);
  std::string kept, line;
  bool dropped = false;
  while (std::getline(file, line)) {
    const bool whole = !file.eof();  // a last line without its newline was torn
    const json record = json::parse(line, nullptr, false);
    if (whole && record.is_object() && keep(record)) {
      kept += line + "\n";
    } else {
      dropped = true;
    }
  }
  file.close();
  if (dropped) write_file_atomically(path, kept);
  return MetricsLog(path, AppendFile::Mode::resume);
}

MetricsLog MetricsLog::resume(const std::filesystem::path& path, std::int64_t last_step) {
  return resume(path, [last_step](const json& record) {
    const auto step = record.find("step");
    return step == record.end() || !step->is_number() || step->get<double>() <= static_cast<double>(last_step);
  });
}

void MetricsLog::append(const json& record) {
  // Text that is not UTF-8 (a model may sample any bytes) must not end a run.
  file_.append(record.dump(-1, ' ', false, json::error_handler_t::replace));
}

}  // namespace expctr
