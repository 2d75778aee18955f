#include "engine/io/checked_json.h"

#include <fmt/format.h>

#include <unordered_set>
#include <vector>

#include "base/error.h"
#include "engine/io/quoted.h"

namespace expctr {

nlohmann::json parse_checked_json(std::string_view text, const std::string& file, int deepest) {
  using nlohmann::json;
  std::vector<std::unordered_set<std::string>> keys;  // one set per object that is open
  const auto check = [&](int depth, json::parse_event_t event, json& value) {
    if (depth >= deepest && (event == json::parse_event_t::object_start || event == json::parse_event_t::array_start))
      throw InputError(fmt::format("{}: JSON nested more than {} deep", file, deepest), "the file is damaged or made to do harm");
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second)
      throw InputError(fmt::format("{}: the key {} is there twice in one JSON object", file, quoted_text(value.get<std::string>())),
                       "the file is damaged; fetch or export it again");
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), check);
  } catch (const json::exception& error) {
    throw InputError(fmt::format("{}: no valid JSON: {}", file, error.what()), "the file is damaged; fetch or export it again");
  }
}

}  // namespace expctr
