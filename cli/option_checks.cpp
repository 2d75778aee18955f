#include "cli/option_checks.h"

#include <charconv>

namespace expctr {

namespace {

template <class T>
CLI::Validator check_range(T least, T most, const char* kind) {
  const auto check = [=](std::string& text) -> std::string {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc() && end == text.data() + text.size() && value >= least && value <= most) return "";
    return fmt::format("'{}' is not {} from {} to {}", text, kind, least, most);
  };
  return CLI::Validator(check, "");
}

}  // namespace

CLI::Validator whole_number(std::uint64_t least, std::uint64_t most) { return check_range(least, most, "a whole number"); }
CLI::Validator number(double least, double most) { return check_range(least, most, "a number"); }

}  // namespace expctr
