#include "engine/config/config_reader.h"

#include <charconv>
#include <set>

#include "base/error.h"
#include "engine/config/nearest.h"

namespace expctr {

namespace {

template <class T>
std::optional<T> parse_number(const ConfigScalar& scalar) {
  if (scalar.quoted) return std::nullopt;
  std::string_view text = scalar.text;
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  if constexpr (std::is_floating_point_v<T>) {
    if (text == ".inf" || text == ".Inf") return std::numeric_limits<T>::infinity();
    if (text == "-.inf" || text == "-.Inf") return -std::numeric_limits<T>::infinity();
    if (text == ".nan" || text == ".NaN") return std::numeric_limits<T>::quiet_NaN();
    // from_chars knows the words "inf" and "nan", YAML does not.
    if (text.find_first_not_of("0123456789+-.eE") != std::string_view::npos) return std::nullopt;
  }
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

template <class T>
std::string dump_float(T value) {
  if (std::isnan(value)) return ".nan";
  if (std::isinf(value)) return value > 0 ? ".inf" : "-.inf";
  return fmt::format("{}", value);  // the shortest text that reads back as the same bits
}

}  // namespace

template <class T>
const char* ConfigScalarType<T>::name() {
  if constexpr (std::is_same_v<T, bool>) return "true or false";
  if constexpr (std::is_same_v<T, std::string>) return "text";
  if constexpr (std::is_floating_point_v<T>) return "a number";
  if constexpr (std::is_unsigned_v<T>) return "a whole number >= 0";
  return sizeof(T) == 4 ? "a whole number of at most 32 bits" : "a whole number";
}

template <class T>
std::optional<T> ConfigScalarType<T>::parse(const ConfigScalar& scalar) {
  if constexpr (std::is_same_v<T, std::string>) {
    return scalar.text;
  } else if constexpr (std::is_same_v<T, bool>) {
    if (scalar.quoted) return std::nullopt;
    if (scalar.text == "true" || scalar.text == "True") return true;
    if (scalar.text == "false" || scalar.text == "False") return false;
    return std::nullopt;
  } else {
    return parse_number<T>(scalar);
  }
}

template <class T>
std::string ConfigScalarType<T>::dump(const T& value) {
  if constexpr (std::is_same_v<T, std::string>) {
    return yaml_string(value);
  } else if constexpr (std::is_floating_point_v<T>) {
    return dump_float(value);
  } else {
    return fmt::format("{}", value);
  }
}

template struct ConfigScalarType<bool>;
template struct ConfigScalarType<std::int32_t>;
template struct ConfigScalarType<std::int64_t>;
template struct ConfigScalarType<std::uint64_t>;
template struct ConfigScalarType<float>;
template struct ConfigScalarType<double>;
template struct ConfigScalarType<std::string>;

void throw_config_type_error(const ConfigValue& value, std::string_view key, std::string_view expected) {
  throw UsageError(fmt::format("{}: {} is {}, expected {}", value.origin, key, value.text(), expected),
                   fmt::format("give {} for '{}'", expected, key));
}

struct ConfigReader::State {
  Config config;
  std::vector<YamlEntry> used;
};

ConfigReader::ConfigReader(const Config& config) : state_(std::make_shared<State>(State{config, {}})) {}

ConfigReader ConfigReader::section(std::string_view name) const { return ConfigReader(state_, prefix_ + std::string(name) + "."); }

const ConfigValue* ConfigReader::find(const std::string& path) const { return state_->config.find(path); }

void ConfigReader::record(const std::string& path, std::string yaml) {
  for (const YamlEntry& entry : state_->used) {
    if (entry.key == path) {
      if (entry.value != yaml) throw Error(fmt::format("config key '{}' is read twice, as {} and as {}", path, entry.value, yaml));
      return;
    }
    const bool clash = entry.key.starts_with(path + ".") || path.starts_with(entry.key + ".");
    if (clash) throw Error(fmt::format("config keys '{}' and '{}': one is a value, the other needs it to be a section", entry.key, path));
  }
  state_->used.push_back({path, std::move(yaml)});
}

void ConfigReader::missing(const std::string& path) const {
  throw UsageError(fmt::format("{}: no '{}'", state_->config.name(), path),
                   fmt::format("this job needs it; add the key or --set {}=...", path));
}

std::string ConfigReader::choice(std::string_view key, std::string_view fallback, const std::vector<std::string>& allowed) {
  const std::string value = get<std::string>(key, std::string(fallback));
  if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
    const std::string path = full(key);
    const ConfigValue* given_value = find(path);
    throw UsageError(fmt::format("{}: {} is '{}', expected one of {}", given_value ? given_value->origin : "default", path, value,
                                 fmt::join(allowed, ", ")),
                     did_you_mean(value, allowed));
  }
  return value;
}

void ConfigReader::require(std::string_view key, bool condition, std::string_view rule) const {
  if (condition) return;
  const std::string path = full(key);
  const ConfigValue* value = find(path);
  std::string text = value ? value->text() : "";
  for (const YamlEntry& entry : state_->used) {
    if (!value && entry.key == path) text = entry.value;
  }
  throw UsageError(fmt::format("{}: {} is {}, {}", value ? value->origin : "default", path, text, rule), fmt::format("change '{}'", path));
}

bool ConfigReader::given(std::string_view key) const { return find(full(key)) != nullptr; }

void ConfigReader::finish() const {
  std::set<std::string> known;
  for (const YamlEntry& entry : state_->used) known.insert(entry.key);
  std::vector<const Config::Entry*> unknown;
  for (const Config::Entry& entry : state_->config.entries()) {
    if (known.contains(entry.key)) continue;
    const auto below = known.lower_bound(entry.key + ".");
    const bool empty_section = entry.value.kind == ConfigValue::Kind::none && below != known.end() && below->starts_with(entry.key + ".");
    if (!empty_section) unknown.push_back(&entry);
  }
  if (unknown.empty()) return;
  std::string message = fmt::format("{}: unknown key '{}'", unknown.front()->value.origin, unknown.front()->key);
  for (std::size_t i = 1; i < unknown.size(); ++i)
    message += fmt::format("; {}: unknown key '{}'", unknown[i]->value.origin, unknown[i]->key);
  std::string hint;
  for (const Config::Entry* entry : unknown) {
    if (const auto nearest = nearest_name(entry->key, known_keys()))
      hint += fmt::format("{}did you mean '{}'?", hint.empty() ? "" : " ", *nearest);
  }
  throw UsageError(message, hint.empty() ? "no known key is near; the resolved config.yaml of a run lists them all" : hint);
}

std::string ConfigReader::resolved_yaml() const { return nested_yaml(state_->used); }

std::vector<std::string> ConfigReader::known_keys() const {
  std::vector<std::string> keys;
  for (const YamlEntry& entry : state_->used) keys.push_back(entry.key);
  return keys;
}

}  // namespace expctr
