// Reference values of shared family metrics/: every case folder found is named; what is measured here is compared.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "engine/io/safetensors.h"
#include "inference/metrics/ranking_quality.h"
#include "inference/metrics/text_quality.h"
#include "tests/support/paths.h"

namespace fs = std::filesystem;
using namespace expctr;

namespace {

template <class T>
std::vector<T> values_of(const SafetensorsFile& file, const std::string& name) {
  const TensorInfo& tensor = file.required_tensor(name);
  REQUIRE(tensor.dtype == DTypeOf<T>::value);
  std::vector<T> values(tensor.bytes / sizeof(T));
  std::memcpy(values.data(), tensor.data, tensor.bytes);
  return values;
}

struct Comparison {
  double worst = 0;
  void add(double got, double expected) { worst = std::max(worst, std::abs(got - expected) / std::max(std::abs(expected), 1e-300)); }
  void add(const std::vector<double>& got, const std::vector<double>& expected) {
    REQUIRE(got.size() == expected.size());
    for (std::size_t i = 0; i < got.size(); ++i)
      if (got[i] != expected[i]) add(got[i], expected[i]);
  }
  void report(const std::string& path, double tolerance) {
    fmt::print("oracle {} {} max_rel_err={:.2e} tol={:.0e}\n", path, worst <= tolerance ? "ok" : "FAIL", worst, tolerance);
    CHECK(worst <= tolerance);
  }
};

void compare_ctr_metrics(const fs::path& folder, const nlohmann::json& description) {
  const auto file = SafetensorsFile::open(folder / "tensors.safetensors");
  const auto score = values_of<double>(file, "in.score");
  const auto user = values_of<std::int64_t>(file, "in.user");
  std::vector<std::uint8_t> label;
  for (const std::int64_t y : values_of<std::int64_t>(file, "in.label")) label.push_back(static_cast<std::uint8_t>(y));
  const auto expected = [&](const char* name) { return values_of<double>(file, std::string("out.") + name).at(0); };
  const GroupAuc by_rows = group_auc(score, label, user);
  Comparison comparison;
  comparison.add(auc(score, label).value(), expected("auc"));
  comparison.add(by_rows.value, expected("gauc"));
  comparison.add(static_cast<double>(by_rows.rows), expected("gauc_rows"));
  comparison.add(group_auc(score, label, user, GroupWeight::positives).value, expected("gauc_by_positives"));
  comparison.add(group_auc(score, label, user, GroupWeight::equal).value, expected("gauc_unweighted"));
  comparison.add(logloss(score, label, description["hyper_parameters"]["clip"].get<double>()), expected("logloss"));
  comparison.add(by_rows.per_user, values_of<double>(file, "out.auc_per_user"));
  CHECK(by_rows.users == values_of<std::int64_t>(file, "out.users"));
  comparison.report("metrics/" + folder.filename().string(), 1e-12);
}

void compare_text_metrics(const fs::path& folder, const nlohmann::json& description) {
  Comparison comparison;
  for (const auto& [name, one] : description["cases"].items()) {
    const auto texts = one["generated"].get<std::vector<std::string>>();
    const auto& expected = one["expected"];
    comparison.add(distinct_n(texts, 1), expected["distinct1"].get<double>());
    comparison.add(distinct_n(texts, 2), expected["distinct2"].get<double>());
    comparison.add(unique_text_ratio(texts), expected["usr"].get<double>());
    comparison.add(static_cast<double>(unique_texts(texts)), expected["usn"].get<double>());
    comparison.add(mean_words(texts), expected["mean_length"].get<double>());
  }
  // The file prints 12 digits. One line a case: what is measured is checked, what is not measured makes the case unsupported.
  constexpr double tolerance = 1e-11;
  CHECK(comparison.worst <= tolerance);
  fmt::print("oracle metrics/{} {} BLEU, ROUGE, FCR, FMR, DIV; distinct-n, USR, USN, mean length: max_rel_err={:.2e} tol={:.0e}\n",
             folder.filename().string(), comparison.worst <= tolerance ? "unsupported" : "FAIL", comparison.worst, tolerance);
}

}  // namespace

TEST_CASE("metrics agree with the reference values") {
  const fs::path root = oracle_root() / "metrics";
  REQUIRE_MESSAGE(fs::is_directory(root), root.string(), " is missing");
  std::vector<fs::path> folders;
  for (const auto& entry : fs::directory_iterator(root))
    if (fs::exists(entry.path() / "case.json")) folders.push_back(entry.path());
  std::sort(folders.begin(), folders.end());
  int compared = 0;
  for (const fs::path& folder : folders) {
    const auto description = nlohmann::json::parse(read_text(folder / "case.json"));
    const std::string name = folder.filename().string();
    if (name.ends_with("ctr_metrics")) {
      compare_ctr_metrics(folder, description);
      ++compared;
    } else if (name.ends_with("text_metrics")) {
      compare_text_metrics(folder, description);
      ++compared;
    } else {
      fmt::print("oracle metrics/{} unsupported {}\n", name, description["what"].get<std::string>());
    }
  }
  CHECK(compared >= 2);
}
