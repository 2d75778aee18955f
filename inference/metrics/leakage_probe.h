// Leakage report of ExpCTR (expctr.md, sections 10 and 13.15): can the label be read off the text alone, and better on training
// pairs than on test pairs? A logistic regression on the texts' vectors answers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace expctr {

/// Logistic regression with bias on standardised columns, minimising mean BCE + ridge/2 |w|^2 (bias free) by Newton's method
/// with conjugate gradients and a backtracking line search, in float64; deterministic.
class LogisticProbe {
 public:
  struct Options {
    double ridge = 1e-2;
    int max_iterations = 100;
    double tolerance = 1e-8;  ///< largest gradient entry at the end
  };
  /// `vectors` [rows, width]. Errors (Error): shapes that do not fit, no rows.
  LogisticProbe(std::span<const float> vectors, std::span<const std::uint8_t> labels, std::int64_t width, const Options& options);
  LogisticProbe(std::span<const float> vectors, std::span<const std::uint8_t> labels, std::int64_t width)
      : LogisticProbe(vectors, labels, width, Options()) {}
  /// Logits of other rows.
  std::vector<double> logits(std::span<const float> vectors) const;
  const std::vector<double>& weights() const { return weights_; }  ///< on the columns as given
  double bias() const { return bias_; }
  double largest_gradient() const { return largest_gradient_; }
  int iterations() const { return iterations_; }

 private:
  std::vector<double> weights_;
  double bias_ = 0, largest_gradient_ = 0;
  int iterations_ = 0;
};

struct LeakageReport {
  double train_auc = 0;           ///< of the probe on the rows that fitted it
  double held_out_train_auc = 0;  ///< on training rows, each by a probe fitted without its part
  double test_auc = 0;
  /// The spec's figure. With few rows and wide vectors it is large without any leakage, because the probe memorises.
  double gap() const { return train_auc - test_auc; }
  /// The same without the probe's own memory: what differs between training and test texts.
  double held_out_gap() const { return held_out_train_auc - test_auc; }
};

/// Fits on the training texts, measures on both. `parts` for held_out_train_auc: row i is in part i mod parts.
/// AUC values are NaN where a side has one class.
LeakageReport leakage_probe(std::span<const float> train_vectors, std::span<const std::uint8_t> train_labels,
                            std::span<const float> test_vectors, std::span<const std::uint8_t> test_labels, std::int64_t width,
                            const LogisticProbe::Options& options = LogisticProbe::Options(), int parts = 5);

}  // namespace expctr
