// Pieces of HTML: escaped text, numbers as a reader wants them, and JSON read without trusting it.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace expctr::report {

/// What stands where there is no number or text.
inline constexpr std::string_view kMissing = "–";

/// Text made inert for HTML content and quoted attributes: & < > " ' become entities, control characters but tab and line feed are
/// dropped, bytes that are no UTF-8 become U+FFFD.
std::string escaped(std::string_view text);

/// The field of an object as a number; nothing when `object` is no object or the field is missing, null, no number, not finite, or beyond
/// 1e100, where drawing would overflow.
std::optional<double> number_of(const nlohmann::json& object, const std::string& key);
/// The field as unescaped text: strings as they are, numbers and booleans as JSON writes them, "" for everything else.
std::string text_of(const nlohmann::json& object, const std::string& key);
/// The texts of an array; empty for everything else.
std::vector<std::string> texts_of(const nlohmann::json& object, const std::string& key);
/// The field, or null when `object` is no object or has no such field.
const nlohmann::json& field_of(const nlohmann::json& object, const std::string& key);

/// Escaped text, or the missing mark when it is empty.
std::string or_missing(std::string_view text);

/// About `digits` significant digits, plain notation where readable, a true minus sign: 0.0142, −1.5, 12,800, 3.1e-07.
std::string number_text(double value, int digits = 3);
std::string number_text(const std::optional<double>& value, int digits = 3);
/// number_text with a plus sign before positive values.
std::string signed_text(double value, int digits = 3);
/// With exactly `decimals` decimals and a true minus sign; a plus sign before positive values where `sign`.
std::string fixed_text(double value, int decimals, bool sign = false);
/// A count with thousands separators.
std::string count_text(double value);
/// 82.4 % of a share.
std::string percent_text(double share);
/// 12 s, 3 min 20 s, 1 h 04 min.
std::string duration_text(double seconds);
/// 612 MB (decimal units).
std::string bytes_text(double bytes);

}  // namespace expctr::report
