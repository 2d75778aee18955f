#include "engine/config/config.h"

#include <yaml-cpp/yaml.h>

#include <iterator>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace expctr {

namespace {

// Far more than any configuration has, few enough that an alias bomb ends at once.
constexpr std::size_t most_values = 10'000;
constexpr int deepest = 32;

bool is_name(std::string_view key) {
  if (key.empty() || key.size() > 200) return false;
  bool part_begins = true;
  for (const char c : key) {
    if (c == '.') {
      if (part_begins) return false;
      part_begins = true;
      continue;
    }
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '_' && c != '-' && c != '@') return false;
    part_begins = false;
  }
  return !part_begins;
}

/// A YAML tree into dotted keys.
class Flattener {
 public:
  Flattener(std::string name, std::optional<std::string> fixed_origin) : name_(std::move(name)), fixed_origin_(std::move(fixed_origin)) {}

  std::vector<Config::Entry> take() { return std::move(entries_); }

  void visit(const std::string& key, const YAML::Node& node, int depth) {
    const std::string place = origin(node);
    if (depth > deepest) throw UsageError(fmt::format("{}: sections nested more than {} deep", place, deepest));
    if (++values_ > most_values) throw UsageError(fmt::format("{}: more than {} values", place, most_values));
    if (node.IsMap()) {
      for (const auto& child : node) {
        if (!child.first.IsScalar() || !is_name(child.first.Scalar())) {
          throw UsageError(fmt::format("{}: a key is not a name", origin(child.first)),
                           "keys are letters, digits, '_' and '-', joined by '.'");
        }
        visit(key.empty() ? child.first.Scalar() : key + "." + child.first.Scalar(), child.second, depth + 1);
      }
      // An empty section says nothing, but its name is still checked against the known keys.
      if (node.size() == 0 && !key.empty()) entries_.push_back({key, {ConfigValue::Kind::none, {}, place}});
      return;
    }
    if (key.empty()) {
      if (node.IsNull()) return;
      throw UsageError(fmt::format("{}: not a list of 'key: value' lines", place), "a configuration is YAML: 'key: value', one a line");
    }
    ConfigValue value;
    value.origin = place;
    if (node.IsSequence()) {
      value.kind = ConfigValue::Kind::list;
      for (const auto& item : node) {
        if (!item.IsScalar()) throw UsageError(fmt::format("{}: '{}' is a list of something else than plain values", place, key));
        if (++values_ > most_values) throw UsageError(fmt::format("{}: more than {} values", place, most_values));
        value.scalars.push_back(scalar(item));
      }
    } else if (node.IsScalar()) {
      value.kind = ConfigValue::Kind::scalar;
      value.scalars.push_back(scalar(node));
    }
    entries_.push_back({key, std::move(value)});
  }

 private:
  // yaml-cpp's tag of a scalar is "!" exactly when it was quoted (or a block of text).
  static ConfigScalar scalar(const YAML::Node& node) { return {node.Scalar(), node.Tag() == "!"}; }

  std::string origin(const YAML::Node& node) const {
    if (fixed_origin_) return *fixed_origin_;
    return node.Mark().is_null() ? name_ : fmt::format("{}, line {}", name_, node.Mark().line + 1);
  }

  std::string name_;
  std::optional<std::string> fixed_origin_;
  std::vector<Config::Entry> entries_;
  std::size_t values_ = 0;
};

YAML::Node parse_yaml(const std::string& text, const std::string& name) {
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() > 1) throw UsageError(fmt::format("{}: more than one YAML document", name), "remove the line '---'");
    return documents.empty() ? YAML::Node() : documents.front();
  } catch (const YAML::Exception& error) {
    const std::string place =
        error.mark.is_null() ? name : fmt::format("{}, line {}, column {}", name, error.mark.line + 1, error.mark.column + 1);
    throw UsageError(fmt::format("{}: not YAML: {}", place, error.msg),
                     "indent with spaces, write 'key: value', and quote text that has ': ' or '#' in it");
  }
}

}  // namespace

std::string ConfigValue::text() const {
  if (kind == Kind::none) return "null";
  std::vector<std::string> parts;
  for (const ConfigScalar& scalar : scalars) parts.push_back(scalar.quoted ? yaml_string(scalar.text) : scalar.text);
  return kind == Kind::scalar ? parts.front() : fmt::format("[{}]", fmt::join(parts, ", "));
}

Config Config::load(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path))
    throw UsageError(fmt::format("configuration '{}' is a folder", path.string()), "name the YAML file in it");
  std::ifstream file(path, std::ios::binary);
  if (!file) throw UsageError(fmt::format("cannot read configuration '{}'", path.string()), "check the path after --config");
  return parse(std::string(std::istreambuf_iterator<char>(file), {}), path.string());
}

Config Config::parse(std::string_view text, std::string_view name) {
  Config config;
  config.name_ = name;
  Flattener flattener(config.name_, std::nullopt);
  const YAML::Node root = parse_yaml(std::string(text), config.name_);
  try {
    flattener.visit("", root, 0);
  } catch (const YAML::Exception& error) {
    throw UsageError(fmt::format("{}: {}", name, error.what()));
  }
  for (Entry& entry : flattener.take()) config.put(std::move(entry), false);
  return config;
}

void Config::set(std::string_view assignment) {
  const std::size_t equals = assignment.find('=');
  const std::string origin = fmt::format("--set {}", assignment);
  if (equals == std::string_view::npos)
    throw UsageError(fmt::format("{}: no '='", origin), "write --set key=value, for instance --set ppo.lr=1e-4");
  const std::string key(assignment.substr(0, equals));
  if (!is_name(key)) throw UsageError(fmt::format("{}: '{}' is not a key", origin, key), "a key is a dotted path such as ppo.lr");
  YAML::Node node = parse_yaml(std::string(assignment.substr(equals + 1)), origin);
  Flattener flattener(name_, origin);
  try {
    flattener.visit(key, node, 0);
  } catch (const YAML::Exception& error) {
    throw UsageError(fmt::format("{}: {}", origin, error.what()));
  }
  for (Entry& entry : flattener.take()) put(std::move(entry), true);
}

const ConfigValue* Config::find(std::string_view key) const {
  for (const Entry& entry : entries_) {
    if (entry.key == key) return &entry.value;
  }
  return nullptr;
}

void Config::put(Entry entry, bool replace) {
  for (auto known = entries_.begin(); known != entries_.end(); ++known) {
    const auto begins = [](const std::string& longer, const std::string& shorter) {
      return longer.size() > shorter.size() && longer.starts_with(shorter) && longer[shorter.size()] == '.';
    };
    if (known->key == entry.key) {
      if (!replace) {
        throw UsageError(fmt::format("{}: '{}' is given twice, first in {}", entry.value.origin, entry.key, known->value.origin),
                         "remove one of them");
      }
      known->value = std::move(entry.value);
      return;
    }
    if (begins(known->key, entry.key)) {
      if (entry.value.kind == ConfigValue::Kind::none) return;
      throw UsageError(fmt::format("{}: '{}' is a section, not a value", entry.value.origin, entry.key),
                       fmt::format("give one of its keys, for instance '{}'", known->key));
    }
    if (begins(entry.key, known->key)) {
      if (known->value.kind == ConfigValue::Kind::none) {
        *known = std::move(entry);
        return;
      }
      throw UsageError(fmt::format("{}: '{}' is a value in {}, not a section", entry.value.origin, known->key, known->value.origin),
                       fmt::format("there is no key below '{}'", known->key));
    }
  }
  entries_.push_back(std::move(entry));
}

std::vector<std::string> config_differences(const Config& before, const Config& after) {
  std::vector<std::string> differences;
  for (const Config::Entry& entry : before.entries()) {
    const ConfigValue* other = after.find(entry.key);
    const std::string was = entry.value.text(), is = other ? other->text() : "(none)";
    if (was != is) differences.push_back(fmt::format("{}: {} -> {}", entry.key, was, is));
  }
  for (const Config::Entry& entry : after.entries()) {
    if (before.find(entry.key) == nullptr) differences.push_back(fmt::format("{}: (none) -> {}", entry.key, entry.value.text()));
  }
  return differences;
}

std::string yaml_string(std::string_view text) {
  const auto plain_character = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.' || c == '/' || c == '-' || c == ' ';
  };
  bool plain = !text.empty() && (std::isalpha(static_cast<unsigned char>(text.front())) || text.front() == '/') && text.back() != ' ' &&
               std::all_of(text.begin(), text.end(), plain_character);
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (const char* word : {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}) plain = plain && lower != word;
  if (plain) return std::string(text);
  // A JSON string is a YAML double-quoted scalar.
  return nlohmann::json(std::string(text)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string nested_yaml(const std::vector<YamlEntry>& entries) {
  struct Section {
    std::string value;
    std::vector<std::pair<std::string, std::unique_ptr<Section>>> children;
    Section& child(const std::string& name) {
      for (auto& [known, section] : children) {
        if (known == name) return *section;
      }
      return *children.emplace_back(name, std::make_unique<Section>()).second;
    }
    void write(std::string& out, int indent) const {
      for (const auto& [name, section] : children) {
        out += std::string(static_cast<std::size_t>(indent), ' ') + yaml_string(name) + ":";
        if (section->children.empty()) {
          out += " " + section->value + "\n";
        } else {
          out += "\n";
          section->write(out, indent + 2);
        }
      }
    }
  } root;
  for (const YamlEntry& entry : entries) {
    Section* section = &root;
    std::string_view rest = entry.key;
    for (std::size_t dot; (dot = rest.find('.')) != std::string_view::npos; rest.remove_prefix(dot + 1)) {
      section = &section->child(std::string(rest.substr(0, dot)));
    }
    section->child(std::string(rest)).value = entry.value;
  }
  std::string out;
  root.write(out, 0);
  return out;
}

}  // namespace expctr
