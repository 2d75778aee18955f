#include "tests/support/launch_profile.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "engine/core/build_info.h"
#include "engine/core/device.h"
#include "tests/support/outcome.h"
#include "tests/support/paths.h"

namespace expctr {
namespace fs = std::filesystem;
namespace {

// "<number of the call>:<folder with the profiles of the calls before it>": which body the child runs.
constexpr const char* call_variable = "EXPCTR_PROFILED_CALL";

int failed_assertions = 0;

class FailureListener : public doctest::IReporter {
 public:
  explicit FailureListener(const doctest::ContextOptions&) {}
  void report_query(const doctest::QueryData&) override {}
  void test_run_start() override {}
  void test_run_end(const doctest::TestRunStats&) override {}
  void test_case_start(const doctest::TestCaseData&) override {}
  void test_case_reenter(const doctest::TestCaseData&) override {}
  void test_case_end(const doctest::CurrentTestCaseStats&) override {}
  void test_case_exception(const doctest::TestCaseException&) override {}
  void subcase_start(const doctest::SubcaseSignature&) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData& assertion) override { failed_assertions += assertion.m_failed ? 1 : 0; }
  void log_message(const doctest::MessageData& message) override {
    failed_assertions += (message.m_severity & doctest::assertType::is_warn) == 0 ? 1 : 0;
  }
  void test_case_skipped(const doctest::TestCaseData&) override {}
};

REGISTER_LISTENER("profiled body", 2, FailureListener);

std::string running_test() { return doctest::getContextOptions()->currentTest->m_name; }

// A filter of doctest for exactly this name: commas separate filters there.
std::string filter_of(const std::string& name) {
  std::string filter;
  for (const char c : name) {
    if (c == ',' || c == '\\') filter += '\\';
    filter += c;
  }
  return filter;
}

fs::path profile_file(const fs::path& folder, std::size_t call) { return folder / fmt::format("{}.jsonl", call); }

[[noreturn]] void run_body(const std::function<void()>& body) {
  const int failed_before = failed_assertions;
  bool threw = false;
  try {
    body();
    synchronise({DeviceType::cuda, 0});
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    threw = true;
  } catch (...) {  // a REQUIRE that failed; doctest has printed it
    threw = true;
  }
  std::fflush(stdout);
  std::exit(threw || failed_assertions != failed_before ? 1 : 0);  // the virtual GPU completes the profile in an exit handler
}

Outcome start_child(const std::string& test, std::size_t call, const fs::path& folder, int compute_capability,
                    const ProfileOptions& options) {
  const std::vector<std::string> environment = {fmt::format("{}={}:{}", call_variable, call, folder.string()),
                                                fmt::format("VGPU_PROFILE={}", profile_file(folder, call).string()),
                                                fmt::format("VGPU_CC={}", compute_capability), fmt::format("VGPU_CHECK={}", options.checks),
                                                fmt::format("VGPU_SEED={}", options.seed)};
  const std::string program = fs::read_symlink("/proc/self/exe").string(), filter = "--test-case=" + filter_of(test);
  return in_child(fs::current_path(), [&] {
    for (const std::string& variable : environment) ::putenv(const_cast<char*>(variable.c_str()));
    const char* words[] = {program.c_str(), filter.c_str(), nullptr};
    ::execv(program.c_str(), const_cast<char* const*>(words));
    return 127;
  });
}

double ratio(std::uint64_t part, std::uint64_t whole) { return whole == 0 ? 1.0 : static_cast<double>(part) / static_cast<double>(whole); }

KernelLaunch launch_of(const nlohmann::json& record) {
  KernelLaunch launch;
  launch.kernel = record.at("kernel");
  launch.blocks = launch.threads = 1;
  for (const std::int64_t extent : record.at("grid")) launch.blocks *= extent;
  for (const std::int64_t extent : record.at("block")) launch.threads *= extent;
  const std::uint64_t loads = record.at("global_load_bytes"), stores = record.at("global_store_bytes");
  launch.sector_bytes = loads + stores;
  launch.load_bytes = loads + record.at("bulk_load_bytes").get<std::uint64_t>();
  launch.store_bytes = stores + record.at("bulk_store_bytes").get<std::uint64_t>();
  record.at("global_load_sectors").get_to(launch.load_sectors);
  record.at("global_store_sectors").get_to(launch.store_sectors);
  record.at("dram_read_bytes").get_to(launch.compulsory_read_bytes);
  record.at("dram_write_bytes").get_to(launch.compulsory_write_bytes);
  launch.shared_accesses = record.at("shared_loads").get<std::uint64_t>() + record.at("shared_stores").get<std::uint64_t>();
  record.at("bank_conflicts").get_to(launch.bank_conflicts);
  record.at("flops_tensor").get_to(launch.tensor_flops);
  record.at("flops_fp32").get_to(launch.f32_flops);
  record.at("flops_fp64").get_to(launch.f64_flops);
  record.at("warp_instructions").get_to(launch.warp_instructions);
  launch.atomics = record.at("global_atomics").get<std::uint64_t>() + record.at("shared_atomics").get<std::uint64_t>();
  record.at("barriers").get_to(launch.barriers);
  record.at("lane_utilisation").get_to(launch.lane_utilisation);
  record.at("instructions").get_to(launch.instructions);
  return launch;
}

void add(KernelLaunch& sum, const KernelLaunch& launch) {
  sum.blocks += launch.blocks;
  sum.load_bytes += launch.load_bytes;
  sum.store_bytes += launch.store_bytes;
  sum.load_sectors += launch.load_sectors;
  sum.store_sectors += launch.store_sectors;
  sum.sector_bytes += launch.sector_bytes;
  sum.compulsory_read_bytes += launch.compulsory_read_bytes;
  sum.compulsory_write_bytes += launch.compulsory_write_bytes;
  sum.shared_accesses += launch.shared_accesses;
  sum.bank_conflicts += launch.bank_conflicts;
  sum.tensor_flops += launch.tensor_flops;
  sum.f32_flops += launch.f32_flops;
  sum.f64_flops += launch.f64_flops;
  sum.warp_instructions += launch.warp_instructions;
  sum.atomics += launch.atomics;
  sum.barriers += launch.barriers;
  for (const auto& [name, count] : launch.instructions) sum.instructions[name] += count;
}

}  // namespace

double KernelLaunch::excess() const { return ratio(requested_bytes(), compulsory_bytes()); }
double KernelLaunch::sector_efficiency() const { return ratio(sector_bytes, 32 * (load_sectors + store_sectors)); }
double KernelLaunch::bank_conflict_share() const {
  return shared_accesses == 0 ? 0.0 : static_cast<double>(bank_conflicts) / static_cast<double>(shared_accesses);
}

std::vector<KernelLaunch> LaunchProfile::of(std::string_view name) const {
  std::vector<KernelLaunch> found;
  for (const KernelLaunch& launch : launches) {
    if (launch.kernel.find(name) != std::string::npos) found.push_back(launch);
  }
  return found;
}

KernelLaunch LaunchProfile::only(std::string_view name) const {
  const std::vector<KernelLaunch> found = of(name);
  if (found.size() == 1) return found[0];
  std::string all;
  for (const KernelLaunch& launch : launches) all += "\n  " + launch.kernel.substr(0, 120);
  throw Error(fmt::format("{} launches of '{}' among{}", found.size(), name, all), "name a part of one kernel's name");
}

KernelLaunch LaunchProfile::total(std::string_view name) const {
  KernelLaunch sum;
  for (const KernelLaunch& launch : of(name)) {
    sum.threads = launch.threads;
    add(sum, launch);
  }
  sum.kernel = name;
  return sum;
}

std::uint64_t LaunchProfile::calls(const std::string& function) const {
  const auto found = host_api.find(function);
  return found == host_api.end() ? 0 : found->second;
}

LaunchProfile read_launch_profile(const std::string& text) {
  LaunchProfile profile;
  profile.here = true;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json record = nlohmann::json::parse(line);
    if (record.contains("kernel")) profile.launches.push_back(launch_of(record));
    if (record.contains("library_call"))
      profile.library_calls.push_back(
          {record.at("library_call"), record.at("flops"), record.at("flops_tensor"), record.at("read_bytes"), record.at("write_bytes")});
    if (record.contains("host_api")) record.at("host_api").get_to(profile.host_api);
  }
  return profile;
}

LaunchProfile profile_launches(int compute_capability, const std::function<void()>& body, const ProfileOptions& options) {
  if (!has_cuda || fs::exists("/dev/nvidia0")) return {};
  // A test case that runs again (for another subcase) goes on counting, in parent and child alike.
  static std::map<std::string, std::size_t> calls;
  static const TemporaryFolder own_folder;
  const std::string test = running_test();
  const std::size_t call = calls[test]++;
  if (const char* asked = std::getenv(call_variable); asked != nullptr) {
    const std::string text = asked;
    const std::size_t colon = text.find(':');
    if (call == std::stoull(text.substr(0, colon))) run_body(body);
    return read_launch_profile(read_text(profile_file(text.substr(colon + 1), call)));
  }
  const fs::path folder = own_folder / std::to_string(std::hash<std::string>{}(test));
  fs::create_directories(folder);
  const Outcome outcome = start_child(test, call, folder, compute_capability, options);
  if (outcome.code != 0 || outcome.errors.find("vgpu: ") != std::string::npos)
    throw Error(fmt::format("the profiled body of '{}' (call {}, compute capability {}) failed: exit code {}, signal {}\n{}{}", test, call,
                            compute_capability, outcome.code, outcome.signal, outcome.output, outcome.errors));
  return read_launch_profile(read_text(profile_file(folder, call)));
}

}  // namespace expctr
