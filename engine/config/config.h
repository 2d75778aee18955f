// Configuration as text: YAML flattened to dotted keys, each value with the place it came from. What the keys mean: config_reader.h.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace expctr {

/// One scalar of a file. A quoted scalar is always a string; a plain one is whatever its reader asks for.
struct ConfigScalar {
  std::string text;
  bool quoted = false;
};

/// The value of one key: nothing (`key:` or `key: null`), a scalar, or a list of scalars.
struct ConfigValue {
  enum class Kind { none, scalar, list };
  Kind kind = Kind::none;
  std::vector<ConfigScalar> scalars;  ///< one for a scalar
  std::string origin;                 ///< "configs/quickstart.yaml, line 12" or "--set ppo.lr=x"

  /// As it may be written in YAML flow style; for messages.
  std::string text() const;
};

/// Dotted keys in the order of the file. `ppo: {lr: 1}` and `ppo.lr: 1` are the same key. All members throw UsageError naming file and line
/// for text that is not YAML, keys given twice, keys that are no names, lists of anything but scalars, or a key that is both a value and a
/// section.
class Config {
 public:
  static Config load(const std::filesystem::path& path);
  /// `name` stands for the file in messages, e.g. "built-in quickstart.yaml".
  static Config parse(std::string_view text, std::string_view name);

  /// Applies "a.b=value"; the value is read as YAML ("[20, 50]", "last 4", "null"); a later one wins. The key need not exist yet.
  void set(std::string_view assignment);

  struct Entry {
    std::string key;
    ConfigValue value;
  };
  const std::vector<Entry>& entries() const { return entries_; }
  const ConfigValue* find(std::string_view key) const;
  const std::string& name() const { return name_; }

 private:
  void put(Entry entry, bool replace);
  std::string name_;
  std::vector<Entry> entries_;
};

/// What differs between two configurations, one line a key in the order of `before`: "ppo.lr: 1e-05 -> 0.0003", "seed: (none) -> 2". Values
/// are compared as the text in which resolved configurations are written. Empty when they say the same.
std::vector<std::string> config_differences(const Config& before, const Config& after);

/// YAML text of dotted keys, nested into sections, sections and keys in the order of their first appearance. `value` is YAML already.
struct YamlEntry {
  std::string key;
  std::string value;
};
std::string nested_yaml(const std::vector<YamlEntry>& entries);

/// A string as a YAML scalar that reads back as the same string: plain where that is safe, double-quoted otherwise.
std::string yaml_string(std::string_view text);

}  // namespace expctr
