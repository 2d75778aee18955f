// Runs the table of op cases, a mode a test case (tests/ops/checks.h).
#include <doctest/doctest.h>
#include <fmt/format.h>

#include "base/error.h"
#include "tests/ops/checks.h"

namespace expctr::test {
namespace {

// The check of every case in one place.
template <class Check>
void run_all(const Place& place, const Check& check) {
  int cases = 0;
  for (const OpCase& c : CaseTable::instance().cases()) {
    if (!runs_at(c, place)) continue;
    ++cases;
    for (const std::string& problem : guarded(c.op + " " + c.label, [&] { return check(c, place); })) FAIL_CHECK(problem);
  }
  CHECK(cases > 0);
}

constexpr Place cpu_f64{cpu_device, DType::f64}, cpu_f32{cpu_device, DType::f32}, cpu_bf16{cpu_device, DType::bf16};

struct Op {
  const char *name, *family;
};
#define OP(name, family, arguments) {#name, #family},
constexpr Op all_ops[] = {
#include "engine/ops/ops.def"
};
#undef OP

}  // namespace

TEST_CASE("op table, test: values on cpu f64") { run_all(cpu_f64, check_values); }
TEST_CASE("op table, test: values on cpu f32") { run_all(cpu_f32, check_values); }
TEST_CASE("op table, test: values on cpu bf16") { run_all(cpu_bf16, check_values); }
TEST_CASE("op table, test: values on cuda f32 and bf16") {
  for (const Place& place : places())
    if (place.device.is_cuda()) run_all(place, check_values);
}

TEST_CASE("op table, grad: finite differences in cpu f64") { run_all(cpu_f64, check_gradients); }
TEST_CASE("op table, grad: cpu f32") { run_all(cpu_f32, check_gradients); }
TEST_CASE("op table, grad: cpu bf16") { run_all(cpu_bf16, check_gradients); }
TEST_CASE("op table, grad: cuda f32 and bf16") {
  for (const Place& place : places())
    if (place.device.is_cuda()) run_all(place, check_gradients);
}

TEST_CASE("op table, test: strided operands give the same bits") {
  for (const Place& place : places())
    if (place.dtype == DType::f32) run_all(place, check_strided);
}

TEST_CASE("op table, test: one and two threads give the same bits on the CPU") {
  run_all(cpu_f32, [](const OpCase& c, const Place&) { return check_threads(c); });
}

TEST_CASE("op table, test: wrong operands give the documented message") {
  for (const ErrorCase& c : CaseTable::instance().errors()) {
    CAPTURE(c.op);
    std::string message;
    try {
      c.run();
    } catch (const Error& error) {
      message = error.what();
    }
    CHECK_MESSAGE(message.find(c.message) != std::string::npos, fmt::format("{}: got '{}', expected it to contain '{}'", c.op, message, c.message));
  }
}

TEST_CASE("op table, support: every op in every place") {
  const std::vector<Place> all = places();
  std::string head = fmt::format("{:<22}", "forward, backward");
  for (const Place& place : all) head += fmt::format(" {:>9}", place_name(place));
  fmt::print("{}\n", head);
  for (const Op& op : all_ops) {
    std::string line = fmt::format("{:<22}", op.name);
    for (const Place& place : all) {
      const SupportEntry entry = check_support(op.name, CaseTable::instance().cases(), place);
      const char* text = entry.support == Support::yes ? "f b" : entry.support == Support::no_gradient ? "f  " : entry.support == Support::meaningless ? "-  " : "HOLE";
      line += fmt::format(" {:>9}", text);
      if (entry.support == Support::hole) FAIL_CHECK(fmt::format("{} on {}: {}", op.name, place_name(place), entry.problem));
    }
    fmt::print("{}\n", line);
  }
  for (const Exemption& exemption : CaseTable::instance().exemptions()) fmt::print("- {} in {}: {}\n", exemption.op, dtype_name(exemption.dtype), exemption.reason);
}

}  // namespace expctr::test
