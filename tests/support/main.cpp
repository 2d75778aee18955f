// Entry point of every test program. Ends with the line "N passed, N failed, N skipped" (test cases) that the test runner adds up.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>

#include "tests/support/paths.h"

namespace {

struct Counts {
  int passed = 0, failed = 0, skipped = 0;
} counts;

/// Counts test cases as they end; a test case that fails after a skip has failed.
class CountingListener : public doctest::IReporter {
 public:
  explicit CountingListener(const doctest::ContextOptions&) {}
  void report_query(const doctest::QueryData&) override {}
  void test_run_start() override {}
  void test_run_end(const doctest::TestRunStats&) override {}
  void test_case_start(const doctest::TestCaseData&) override { expctr::take_skip_mark(); }
  void test_case_reenter(const doctest::TestCaseData&) override {}
  void test_case_end(const doctest::CurrentTestCaseStats& statistics) override {
    const bool skipped = expctr::take_skip_mark();
    ++(!statistics.testCaseSuccess ? counts.failed : skipped ? counts.skipped : counts.passed);
  }
  void test_case_exception(const doctest::TestCaseException&) override {}
  void subcase_start(const doctest::SubcaseSignature&) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData&) override {}
  void log_message(const doctest::MessageData&) override {}
  void test_case_skipped(const doctest::TestCaseData&) override {}
};

REGISTER_LISTENER("counts", 1, CountingListener);

}  // namespace

int main(int argc, char** argv) {
  doctest::Context context(argc, argv);
  const int status = context.run();
  std::printf("%d passed, %d failed, %d skipped\n", counts.passed, counts.failed, counts.skipped);
  return status;
}
