// What the virtual GPU counted while something ran: one record a kernel launch. For tests that bound a kernel's traffic.
//
//   TEST_CASE("rms norm reads and writes each element once") {
//     for (const int capability : {80, 90}) {
//       const LaunchProfile profile = profile_launches(capability, [] {
//         const DeviceTensor x(...), y = ...;
//         launch(RmsNormForward{...});                     // waits for the kernel, as everything in the body must
//       });
//       if (!profile.here) return skip_test(no_launch_profile);
//       const KernelLaunch& kernel = profile.only("rms_norm_kernel");
//       CHECK(kernel.excess() <= 1.15);
//     }
//   }
//
// The counters exist only in a process that was started with VGPU_PROFILE, so the test program starts itself again for the one test case
// that runs (and for its n-th call of profile_launches); the body runs there and nowhere else, on a device of the wanted compute
// capability. Test cases therefore must make the same calls in the same order every time, and results of a body cannot leave it but
// through the profile: a CHECK inside a body fails the call. Only in programs whose test names are distinct.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace expctr {

struct KernelLaunch {
  std::string kernel;                                                   ///< demangled, with template arguments and parameters
  std::int64_t blocks = 0;                                              ///< of the grid
  std::int64_t threads = 0;                                             ///< of a block
  std::uint64_t load_bytes = 0, store_bytes = 0;                        ///< asked for by the threads, global memory; bulk copies included
  std::uint64_t load_sectors = 0, store_sectors = 0;                    ///< 32-byte sectors that the requests touch, without bulk copies
  std::uint64_t sector_bytes = 0;                                       ///< asked for by the requests that sectors are counted for
  std::uint64_t compulsory_read_bytes = 0, compulsory_write_bytes = 0;  ///< distinct sectors, each counted once
  std::uint64_t shared_accesses = 0, bank_conflicts = 0;                ///< warp instructions on shared memory; extra passes over its banks
  std::uint64_t tensor_flops = 0, f32_flops = 0, f64_flops = 0;
  std::uint64_t warp_instructions = 0, atomics = 0, barriers = 0;
  double lane_utilisation = 1.0;
  std::map<std::string, std::uint64_t> instructions;  ///< warp instructions by class, as VGPU_PROFILE names them

  std::uint64_t requested_bytes() const { return load_bytes + store_bytes; }
  std::uint64_t compulsory_bytes() const { return compulsory_read_bytes + compulsory_write_bytes; }
  /// Requested over compulsory bytes; 1 for a kernel that touches every byte once, in whole sectors.
  double excess() const;
  /// Requested bytes over those of the sectors they touch: 1 when neighbours read neighbours. More where lanes share an address.
  double sector_efficiency() const;
  /// Extra passes over the banks, by access of shared memory.
  double bank_conflict_share() const;
};

struct LibraryCall {
  std::string name;
  std::uint64_t flops = 0, tensor_flops = 0, read_bytes = 0, write_bytes = 0;
};

struct LaunchProfile {
  bool here = false;  ///< false: a real device or none, where nothing is counted
  std::vector<KernelLaunch> launches;
  std::vector<LibraryCall> library_calls;
  std::map<std::string, std::uint64_t> host_api;  ///< calls of the CUDA runtime, the body's preparations included

  /// Launches whose kernel's name contains `name`.
  std::vector<KernelLaunch> of(std::string_view name) const;
  /// The one launch of that name; throws Error when there is none, or more than one.
  KernelLaunch only(std::string_view name) const;
  /// The sum over launches of that name; lane_utilisation stays 1.
  KernelLaunch total(std::string_view name) const;
  /// Calls of one function of the CUDA runtime; 0 when there was none.
  std::uint64_t calls(const std::string& function) const;
};

constexpr const char* no_launch_profile = "launch profile: a real device counts no launches";

struct ProfileOptions {
  /// VGPU_CHECK of the child: what the virtual GPU watches beside counting. "none" for large shapes.
  std::string checks = "mem,init,race,sync";
  /// VGPU_SEED of the child: another order of blocks and warps when not 0.
  std::uint64_t seed = 0;
};

/// Runs `body` in a child process of this test program on a virtual device of compute capability 80 or 90 and returns what was counted.
/// Throws Error with the child's output when the body threw, failed a check, or the virtual GPU reported something.
LaunchProfile profile_launches(int compute_capability, const std::function<void()>& body, const ProfileOptions& options = {});

/// A VGPU_PROFILE file as a profile.
LaunchProfile read_launch_profile(const std::string& text);

}  // namespace expctr
