#include "tests/commands/program.h"

#include <fstream>
#include <sstream>

#include "tests/support/paths.h"

namespace expctr {

std::vector<nlohmann::json> json_lines(const Outcome& outcome) {
  std::vector<nlohmann::json> lines;
  std::istringstream stream(outcome.output);
  for (std::string line; std::getline(stream, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

std::string write_json_lines(const std::filesystem::path& path, const std::vector<nlohmann::json>& objects) {
  std::ofstream file(path);
  for (const auto& object : objects) file << object.dump() << "\n";
  return path.string();
}

}  // namespace expctr
