// The texts of a run: how many of them training changed, and some of them to read.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace expctr::report {

/// One entry a (user, item): the last one; in the order of their first appearance.
std::vector<nlohmann::json> newest_of_each_pair(const std::vector<nlohmann::json>& explanations);

/// At most `count` entries to show: of test pairs, when these are used up of validation pairs, then of the rest; alternating between the
/// labels, a user again only when all others had their turn, and otherwise in the order of a hash of user and item: never by what the texts
/// say. Independent of the order of the input.
std::vector<nlohmann::json> choose_examples(const std::vector<nlohmann::json>& pairs, std::size_t count);

/// The section on what training changed: texts that differ from the untrained model's for the same pair, and how many are distinct.
std::string render_changes(const std::vector<nlohmann::json>& explanations);
/// The section with the table of explanations. It reads without the script, which adds sorting and filters.
std::string render_examples(const std::vector<nlohmann::json>& explanations);

}  // namespace expctr::report
