// From configuration text to typed structs: every key that a job knows is asked for once, with its default; what is left over is an error.
//
//   PpoConfig read_ppo(ConfigReader reader) {
//     PpoConfig c;
//     c.lr = reader.get("lr", 1e-5);
//     reader.require("lr", c.lr > 0, "must be > 0");
//     c.estimator = reader.choice("estimator", "gae", {"gae", "grpo"});
//     c.target_kl = reader.get("target_kl", std::optional<double>());
//     return c;
//   }
//   ConfigReader reader(config);
//   PpoConfig ppo = read_ppo(reader.section("ppo"));
//   reader.finish();                                          // UsageError for unknown keys
//   write_file_atomically(out / "config.yaml", reader.resolved_yaml());
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/config/config.h"

namespace expctr {

/// How a value is read and written back. T: bool, integers of 32 and 64 bits, float, double, string, lists of these, and optional of all of
/// these (`null` in YAML is nullopt).
template <class T>
struct ConfigType;

/// Reads a Config. Copies and sections share one record of the keys asked for. All members throw UsageError with key, file, line, value and
/// what was expected.
class ConfigReader {
 public:
  explicit ConfigReader(const Config& config);

  /// The same reader, seeing keys below `name` only.
  ConfigReader section(std::string_view name) const;

  /// The value of `key`, or `fallback` when the configuration does not have it. Asking twice is allowed when type and default agree.
  template <class T>
  T get(std::string_view key, const T& fallback) {
    const std::string path = full(key);
    const ConfigValue* value = find(path);
    const T result = value == nullptr ? fallback : ConfigType<T>::parse(*value, path);
    record(path, ConfigType<T>::dump(result));
    return result;
  }
  std::string get(std::string_view key, const char* fallback) { return get<std::string>(key, fallback); }

  /// The value of a key without a default.
  template <class T>
  T required(std::string_view key) {
    const std::string path = full(key);
    const ConfigValue* value = find(path);
    if (value == nullptr) missing(path);
    const T result = ConfigType<T>::parse(*value, path);
    record(path, ConfigType<T>::dump(result));
    return result;
  }

  /// One of `allowed`.
  std::string choice(std::string_view key, std::string_view fallback, const std::vector<std::string>& allowed);

  /// Refuses a value that was read: "configs/x.yaml, line 3: ppo.lr is -1, must be > 0".
  void require(std::string_view key, bool condition, std::string_view rule) const;

  /// Whether the configuration itself (not a default) gives the key.
  bool given(std::string_view key) const;

  /// Ends the reading: throws for the keys that nobody asked for, naming the nearest known one.
  void finish() const;

  /// All keys asked for with the values used, as YAML that loads to the same values (doubles keep all digits).
  std::string resolved_yaml() const;
  /// All keys asked for, in that order.
  std::vector<std::string> known_keys() const;

 private:
  struct State;
  ConfigReader(std::shared_ptr<State> state, std::string prefix) : state_(std::move(state)), prefix_(std::move(prefix)) {}
  std::string full(std::string_view key) const { return prefix_ + std::string(key); }
  const ConfigValue* find(const std::string& path) const;
  void record(const std::string& path, std::string yaml);
  [[noreturn]] void missing(const std::string& path) const;

  std::shared_ptr<State> state_;
  std::string prefix_;
};

/// Throws "<origin>: <key> is <value>, expected <expected>".
[[noreturn]] void throw_config_type_error(const ConfigValue& value, std::string_view key, std::string_view expected);

/// One scalar as a T, none when it is not one; instantiated in config_reader.cpp for the types of ConfigType.
template <class T>
struct ConfigScalarType {
  static const char* name();
  static std::optional<T> parse(const ConfigScalar& scalar);
  static std::string dump(const T& value);
};

template <class T>
struct ConfigType {
  static T parse(const ConfigValue& value, std::string_view key) {
    if (value.kind == ConfigValue::Kind::scalar) {
      if (auto result = ConfigScalarType<T>::parse(value.scalars.front())) return *result;
    }
    throw_config_type_error(value, key, ConfigScalarType<T>::name());
  }
  static std::string dump(const T& value) { return ConfigScalarType<T>::dump(value); }
};

template <class T>
struct ConfigType<std::vector<T>> {
  static std::vector<T> parse(const ConfigValue& value, std::string_view key) {
    const std::string expected = std::string("a list, each ") + ConfigScalarType<T>::name();
    if (value.kind != ConfigValue::Kind::list) throw_config_type_error(value, key, expected);
    std::vector<T> result;
    for (const ConfigScalar& scalar : value.scalars) {
      auto item = ConfigScalarType<T>::parse(scalar);
      if (!item) throw_config_type_error(value, key, expected);
      result.push_back(*item);
    }
    return result;
  }
  static std::string dump(const std::vector<T>& values) {
    std::string text = "[";
    for (std::size_t i = 0; i < values.size(); ++i) text += (i ? ", " : "") + ConfigScalarType<T>::dump(values[i]);
    return text + "]";
  }
};

template <class T>
struct ConfigType<std::optional<T>> {
  static std::optional<T> parse(const ConfigValue& value, std::string_view key) {
    if (value.kind == ConfigValue::Kind::none) return std::nullopt;
    return ConfigType<T>::parse(value, key);
  }
  static std::string dump(const std::optional<T>& value) { return value ? ConfigType<T>::dump(*value) : "null"; }
};

}  // namespace expctr
