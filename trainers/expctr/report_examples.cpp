#include "trainers/expctr/report_examples.h"

#include <fmt/format.h>

#include <cmath>
#include <map>
#include <set>

#include "base/hash.h"
#include "trainers/expctr/report_html.h"

namespace expctr::report {
using nlohmann::json;

namespace {

constexpr std::size_t kRows = 60;

using PairName = std::pair<std::string, std::string>;
PairName name_of(const json& entry) { return {text_of(entry, "user"), text_of(entry, "item")}; }

std::uint64_t hash_of(const PairName& name) { return splitmix64(fnv1a(name.first + '\n' + name.second)); }

int rank_of(const std::string& split) { return split == "test" ? 0 : split == "valid" ? 1 : split == "train" ? 2 : 3; }

std::string label_text(const json& entry) {
  const std::string label = text_of(entry, "label");
  return label == "1" ? "liked" : label == "0" ? "disliked" : "";
}

// Of pairs of one split, in the order of their hashes.
void choose(const std::vector<const json*>& candidates, std::size_t count, std::vector<json>& chosen) {
  std::map<std::string, std::vector<const json*>> by_label;
  for (const json* entry : candidates) by_label[text_of(*entry, "label")].push_back(entry);
  std::set<const json*> taken;
  std::map<std::string, std::size_t> turns;
  for (std::size_t turn = 1; taken.size() < candidates.size() && chosen.size() < count; ++turn) {
    std::map<std::string, std::size_t> next;
    for (bool found = true; found && chosen.size() < count;) {
      found = false;
      for (const auto& [label, entries] : by_label) {
        std::size_t& at = next[label];
        while (at < entries.size() && (taken.count(entries[at]) != 0 || turns[text_of(*entries[at], "user")] >= turn)) ++at;
        if (at >= entries.size() || chosen.size() >= count) continue;
        chosen.push_back(*entries[at]);
        taken.insert(entries[at]);
        ++turns[text_of(*entries[at], "user")];
        found = true;
      }
    }
  }
}

std::string titles(const std::string& heading, const std::vector<std::string>& list) {
  if (list.empty()) return fmt::format("<dt>{}</dt><dd class=\"muted\">nothing yet</dd>", heading);
  std::string items;
  for (const std::string& title : list) items += fmt::format("<dd>{}</dd>", or_missing(title));
  return fmt::format("<dt>{}</dt>{}", heading, items);
}

// p without -> p with, and whether that is nearer to what the user did.
std::string movement(const std::string& who, const std::optional<double>& without, const std::optional<double>& with,
                     const std::string& label) {
  std::string text =
      fmt::format("<span class=\"who\">{}</span> <span class=\"p\">{} → {}</span>", who,
                  without ? fixed_text(*without, 3) : std::string(kMissing), with ? fixed_text(*with, 3) : std::string(kMissing));
  if (without && with && !label.empty()) {
    const double gain = (label == "liked" ? 1.0 : -1.0) * (*with - *without);
    text += std::abs(gain) < 5e-4 ? " <span class=\"verdict open\">no change</span>"
            : gain > 0            ? " <span class=\"verdict good\">nearer</span>"
                                  : " <span class=\"verdict bad\">farther</span>";
  }
  return "<div class=\"movement\">" + text + "</div>";
}

std::string sort_value(const std::optional<double>& value) { return value ? fmt::format("{:.6f}", *value) : std::string(); }

std::string example(const json& entry) {
  const std::string label = label_text(entry), text = text_of(entry, "explanation"), untrained = text_of(entry, "untrained"),
                    split = text_of(entry, "split");
  const bool compared = field_of(entry, "untrained").is_string(), changed = compared && text != untrained;
  const std::optional<double> with = number_of(entry, "p_lc"), without = number_of(entry, "p_lc_no_text");
  std::optional<double> gain;
  if (with && without && !label.empty()) gain = (label == "liked" ? 1.0 : -1.0) * (*with - *without);
  std::string before = !compared  ? "<span class=\"muted\">not kept</span>"
                       : !changed ? "<span class=\"muted\">the same</span>"
                                  : "<q>" + or_missing(untrained) + "</q>";
  std::string html = fmt::format("<tr data-label=\"{}\" data-split=\"{}\" data-changed=\"{}\">\n", label, escaped(split),
                                 compared ? (changed ? "yes" : "no") : "");
  html += fmt::format(
      "<td data-label=\"User\" data-sort=\"{}\"><div class=\"user\">user {}<span class=\"muted\"> · {}</span></div><dl>{}{}</dl></td>\n",
      escaped(text_of(entry, "user")), or_missing(text_of(entry, "user")), or_missing(split), titles("Liked", texts_of(entry, "liked")),
      titles("Disliked", texts_of(entry, "disliked")));
  html += fmt::format("<td data-label=\"Asked about\"><b>{}</b><div class=\"muted\">{}</div></td>\n", or_missing(text_of(entry, "title")),
                      escaped(text_of(entry, "genres")));
  html += fmt::format(
      "<td data-label=\"Explanation\"><q class=\"text\">{}</q><div class=\"before\"><span class=\"who\">untrained:</span> {}</div></td>\n",
      or_missing(text), before);
  html += fmt::format("<td data-label=\"p(like), without → with the text\" data-sort=\"{}\">{}{}</td>\n", sort_value(gain),
                      movement("scorer", without, with, label),
                      movement("click model", number_of(entry, "p_id"), number_of(entry, "p_ic"), label));
  html += fmt::format("<td data-label=\"Outcome\"><span class=\"rated {}\">{}</span></td>\n</tr>\n", label, or_missing(label));
  return html;
}

struct Changes {
  std::size_t pairs = 0, compared = 0, changed = 0;
  std::set<std::string> texts;
  void add(const json& entry) {
    ++pairs;
    const std::string text = text_of(entry, "explanation");
    texts.insert(text);
    if (!field_of(entry, "untrained").is_string()) return;
    ++compared;
    if (text != text_of(entry, "untrained")) ++changed;
  }
};

std::string share_of(std::size_t part, std::size_t whole) {
  return whole == 0 ? std::string(kMissing) : percent_text(static_cast<double>(part) / static_cast<double>(whole));
}

std::string change_row(const std::string& name, const Changes& changes) {
  return fmt::format(
      "<tr><th scope=\"row\">{}</th><td class=\"number\" data-label=\"Pairs with text\">{}</td><td class=\"number\" "
      "data-label=\"Compared\">{}</td>"
      "<td class=\"number\" data-label=\"Changed\">{}</td><td class=\"number\" data-label=\"Distinct\">{}</td></tr>\n",
      or_missing(name), count_text(static_cast<double>(changes.pairs)), count_text(static_cast<double>(changes.compared)),
      share_of(changes.changed, changes.compared), share_of(changes.texts.size(), changes.pairs));
}

}  // namespace

std::vector<json> newest_of_each_pair(const std::vector<json>& explanations) {
  std::vector<json> pairs;
  std::map<PairName, std::size_t> places;
  for (const json& entry : explanations) {
    if (!entry.is_object()) continue;
    const auto [place, fresh] = places.emplace(name_of(entry), pairs.size());
    if (fresh) {
      pairs.push_back(entry);
    } else {
      pairs[place->second] = entry;
    }
  }
  return pairs;
}

std::vector<json> choose_examples(const std::vector<json>& pairs, std::size_t count) {
  std::map<int, std::vector<const json*>> by_split;
  for (const json& entry : pairs) by_split[rank_of(text_of(entry, "split"))].push_back(&entry);
  std::vector<json> chosen;
  for (auto& [rank, candidates] : by_split) {
    std::sort(candidates.begin(), candidates.end(), [](const json* a, const json* b) {
      const PairName left = name_of(*a), right = name_of(*b);
      return std::pair(hash_of(left), left) < std::pair(hash_of(right), right);
    });
    choose(candidates, count, chosen);
  }
  return chosen;
}

std::string render_changes(const std::vector<json>& explanations) {
  const std::vector<json> pairs = newest_of_each_pair(explanations);
  Changes all;
  std::map<std::pair<int, std::string>, Changes> by_split;
  for (const json& entry : pairs) {
    const std::string split = text_of(entry, "split");
    all.add(entry);
    by_split[{rank_of(split), split}].add(entry);
  }
  std::string html = "<section id=\"changes\">\n<h2>What training changed in the texts</h2>\n";
  if (all.pairs == 0) return html + "<p class=\"missing\">This run has written no explanations.</p>\n</section>\n";
  if (all.compared == 0) {
    html +=
        "<p class=\"missing\">The untrained model's texts were not kept, so this run does not say how many texts training changed.</p>\n";
  } else {
    html += fmt::format(
        "<p class=\"big\"><strong>{}</strong> of texts changed</p>\n<p>For {} of {} pairs the trained policy writes something else than "
        "the untrained model did for the same "
        "prompt. Changed does not mean better: that is what the figures are for.</p>\n",
        share_of(all.changed, all.compared), count_text(static_cast<double>(all.changed)), count_text(static_cast<double>(all.compared)));
  }
  html +=
      "<table class=\"plain\">\n<thead><tr><th scope=\"col\">Split</th><th scope=\"col\" class=\"number\">Pairs with text</th><th "
      "scope=\"col\" class=\"number\">Compared</th>"
      "<th scope=\"col\" class=\"number\">Changed</th><th scope=\"col\" class=\"number\">Distinct texts</th></tr></thead>\n<tbody>\n";
  for (const auto& [name, changes] : by_split) html += change_row(name.second, changes);
  if (by_split.size() > 1) html += change_row("all", all);
  return html +
         "</tbody>\n</table>\n<p class=\"muted\">Distinct texts: 100 % when no two pairs got the same words. One text for every pair is "
         "how such training fails.</p>\n</section>\n";
}

std::string render_examples(const std::vector<json>& explanations) {
  const std::vector<json> pairs = newest_of_each_pair(explanations), shown = choose_examples(pairs, kRows);
  std::string html = "<section id=\"examples\">\n<h2>Explanations to read</h2>\n";
  if (shown.empty()) return html + "<p class=\"missing\">This run has written no explanations.</p>\n</section>\n";
  html += fmt::format(
      "<p>{} of {} pairs, test pairs first, spread over users and labels by a hash of user and item: not picked for how they read. "
      "Outcome is what the user did; <em>nearer</em> means that with the text the model's p(like) is closer to it. The prompt does not "
      "hold it. "
      "A small language model states things about people and items that are wrong; the text is shown as written.</p>\n",
      shown.size(), count_text(static_cast<double>(pairs.size())));
  html +=
      "<div id=\"tools\" hidden></div>\n<table class=\"examples\">\n<thead><tr><th scope=\"col\" data-sortable>User and history</th><th "
      "scope=\"col\" data-sortable>Asked about</th>"
      "<th scope=\"col\">Explanation</th><th scope=\"col\" data-sortable>p(like), without → with the text</th><th scope=\"col\" "
      "data-sortable>Outcome</th></tr></thead>\n<tbody>\n";
  for (const json& entry : shown) html += example(entry);
  return html + "</tbody>\n</table>\n</section>\n";
}

}  // namespace expctr::report
