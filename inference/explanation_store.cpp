#include "inference/explanation_store.h"

#include <fmt/format.h>

#include <fstream>

#include "base/error.h"

namespace expctr {

nlohmann::json explanation_json(const Explanation& e) {
  return {{"row", e.row}, {"text", e.text}, {"tokens", e.tokens}, {"log_probability", e.log_probability}, {"margin", e.margin}, {"base_margin", e.base_margin},
          {"reward_lc", e.reward_lc}, {"policy", e.policy}, {"seed", e.seed}};
}

Explanation explanation_from_json(const nlohmann::json& record, const std::string& where) {
  try {
    Explanation e;
    e.row = record.at("row");
    e.text = record.at("text");
    e.tokens = record.at("tokens").get<std::vector<std::int32_t>>();
    e.log_probability = record.at("log_probability");
    e.margin = record.at("margin");
    e.base_margin = record.at("base_margin");
    e.reward_lc = record.at("reward_lc");
    e.policy = record.at("policy");
    e.seed = record.at("seed");
    return e;
  } catch (const nlohmann::json::exception& fault) {
    throw InputError(fmt::format("{}: not an explanation record: {}", where, fault.what()), "run the stage that wrote it again with --resume never");
  }
}

std::vector<Explanation> ExplanationStore::read(const std::filesystem::path& path) {
  std::vector<Explanation> records;
  std::ifstream file(path);
  std::string line;
  for (std::int64_t number = 1; std::getline(file, line); ++number) {
    const std::string where = fmt::format("{}, line {}", path.string(), number);
    nlohmann::json record = nlohmann::json::parse(line, nullptr, false);
    if (record.is_discarded()) throw InputError(fmt::format("{}: no JSON", where), "run the stage that wrote it again with --resume never");
    records.push_back(explanation_from_json(record, where));
  }
  return records;
}

ExplanationStore::ExplanationStore(const std::filesystem::path& path) : file_(path, AppendFile::Mode::resume) {
  for (Explanation& record : read(path)) {
    index_[record.row] = records_.size();
    records_.push_back(std::move(record));
  }
}

void ExplanationStore::append(Explanation explanation) {
  // Text may hold a cut character when generation stopped inside one; the file stays UTF-8.
  file_.append(explanation_json(explanation).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  index_[explanation.row] = records_.size();
  records_.push_back(std::move(explanation));
}

}  // namespace expctr
