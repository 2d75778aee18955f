#include "trainers/expctr/report_html.h"

#include <fmt/format.h>

#include <cmath>

#include "engine/io/utf8.h"

namespace expctr::report {
using nlohmann::json;

namespace {

constexpr std::string_view kMinus = "−";

std::string with_minus(std::string text) {
  if (!text.empty() && text[0] == '-') text.replace(0, 1, kMinus);
  return text;
}

std::string grouped(double magnitude) {
  const std::string digits = fmt::format("{:.0f}", magnitude);
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

}  // namespace

std::string escaped(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    if (length == 0) {
      out += "\xEF\xBF\xBD";
      text.remove_prefix(1);
      continue;
    }
    const char c = text[0];
    if (length > 1) {
      const std::uint32_t code_point = utf8_code_point(text);
      if (code_point >= 0xA0) out += text.substr(0, length);  // below: C1 controls
    } else if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '"') {
      out += "&quot;";
    } else if (c == '\'') {
      out += "&#39;";
    } else if ((c >= ' ' && c != 0x7F) || c == '\t' || c == '\n') {
      out += c;
    }
    text.remove_prefix(length);
  }
  return out;
}

const json& field_of(const json& object, const std::string& key) {
  static const json nothing;
  if (!object.is_object()) return nothing;
  const auto found = object.find(key);
  return found == object.end() ? nothing : *found;
}

std::optional<double> number_of(const json& object, const std::string& key) {
  const json& field = field_of(object, key);
  if (!field.is_number()) return std::nullopt;
  const double value = field.get<double>();
  return std::abs(value) < 1e100 ? std::optional(value) : std::nullopt;
}

std::string text_of(const json& object, const std::string& key) {
  const json& field = field_of(object, key);
  if (field.is_string()) return field.get<std::string>();
  return field.is_number() || field.is_boolean() ? field.dump() : std::string();
}

std::vector<std::string> texts_of(const json& object, const std::string& key) {
  std::vector<std::string> texts;
  const json& field = field_of(object, key);
  if (!field.is_array()) return texts;
  for (const json& entry : field) {
    if (entry.is_string()) texts.push_back(entry.get<std::string>());
  }
  return texts;
}

std::string or_missing(std::string_view text) { return text.empty() ? std::string(kMissing) : escaped(text); }

std::string number_text(double value, int digits) {
  if (!std::isfinite(value)) return std::string(kMissing);
  const double magnitude = std::abs(value);
  if (magnitude == 0.0) return "0";
  if (magnitude < 1e-4 || magnitude >= 1e9) return with_minus(fmt::format("{:.{}e}", value, std::max(0, digits - 2)));
  if (magnitude >= 1000.0) return fmt::format("{}{}", value < 0 ? kMinus : "", grouped(magnitude));
  const int decimals = std::max(0, digits - 1 - static_cast<int>(std::floor(std::log10(magnitude))));
  return with_minus(fmt::format("{:.{}f}", value, decimals));
}

std::string number_text(const std::optional<double>& value, int digits) {
  return value ? number_text(*value, digits) : std::string(kMissing);
}

std::string signed_text(double value, int digits) { return fmt::format("{}{}", value > 0 ? "+" : "", number_text(value, digits)); }

std::string fixed_text(double value, int decimals, bool sign) {
  if (!std::isfinite(value)) return std::string(kMissing);
  std::string text = fmt::format("{:.{}f}", value, decimals);
  if (text.find_first_not_of("-0.") == std::string::npos) return text[0] == '-' ? text.substr(1) : text;
  return fmt::format("{}{}", sign && value > 0 ? "+" : "", with_minus(std::move(text)));
}

std::string count_text(double value) { return fmt::format("{}{}", value < 0 ? kMinus : "", grouped(std::abs(value))); }

std::string percent_text(double share) { return fmt::format("{:.1f} %", 100.0 * share); }

std::string duration_text(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e9) return std::string(kMissing);
  if (seconds < 10) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
}

std::string bytes_text(double bytes) {
  if (!std::isfinite(bytes) || bytes < 0) return std::string(kMissing);
  if (bytes >= 1e9) return fmt::format("{:.2f} GB", bytes / 1e9);
  if (bytes >= 1e6) return fmt::format("{:.0f} MB", bytes / 1e6);
  return fmt::format("{:.0f} kB", bytes / 1e3);
}

}  // namespace expctr::report
