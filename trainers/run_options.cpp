#include "trainers/run_options.h"

namespace expctr {

Config load_run_config(const RunOptions& options, std::string_view built_in) {
  Config config = options.config ? Config::load(*options.config) : Config::parse(built_in, "built-in configuration of " + options.job);
  for (const std::string& assignment : options.overrides) config.set(assignment);
  if (options.seed) config.set(fmt::format("seed={}", *options.seed));
  if (!options.device.empty()) config.set(fmt::format("device={}", options.device));
  return config;
}

std::filesystem::path default_out(const std::optional<std::filesystem::path>& config, const Job& job) {
  return std::filesystem::path("runs") / (config ? config->stem() : std::filesystem::path(job.default_config));
}

}  // namespace expctr
