#include "engine/io/phase.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "engine/io/durable_file.h"

namespace expctr {

namespace {

constexpr std::size_t record_bytes = 32;

std::mutex phase_mutex;
std::string phase_name;
int phase_descriptor = -1;

void put() {
  if (phase_descriptor < 0) return;
  std::array<char, record_bytes> record{};
  record.fill(' ');
  std::copy(phase_name.begin(), phase_name.end(), record.begin());
  record.back() = '\n';
  // Advisory only: a run must not fail because its status cannot be shown.
  if (::pwrite(phase_descriptor, record.data(), record.size(), 0) < 0) return;
}

}  // namespace

void open_phase_file(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor < 0) throw_file_error(errno, "write", path);
  const std::lock_guard lock(phase_mutex);
  if (phase_descriptor >= 0) ::close(phase_descriptor);
  phase_descriptor = descriptor;
  put();
}

void close_phase_file() {
  const std::lock_guard lock(phase_mutex);
  if (phase_descriptor >= 0) ::close(phase_descriptor);
  phase_descriptor = -1;
}

void phase(std::string_view name) {
  const std::lock_guard lock(phase_mutex);
  phase_name = name.substr(0, record_bytes - 1);
  put();
}

std::string current_phase() {
  const std::lock_guard lock(phase_mutex);
  return phase_name;
}

std::string read_phase(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string name;
  std::getline(file, name);
  name.erase(name.find_last_not_of(' ') + 1);
  return name;
}

}  // namespace expctr
