// DIN on MovieLens-100K, batch 2048: training steps on batches that are ready, the same with the batches cut from the data, and reading the
// data.
#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "bench/suite/measure.h"
#include "data/fetch.h"
#include "engine/autograd/tape.h"
#include "engine/ops/loss.h"
#include "engine/ops/reduce.h"
#include "engine/optim/adam.h"
#include "trainers/ctr/ctr_data.h"

namespace expctr {

namespace {

CtrConfig bench_config() {
  CtrConfig config;
  config.conventions = "fuxictr";
  config.softmax = true;
  config.dropout = 0.2;
  config.embedding_regularizer = 3e-3;
  return config;
}

struct LabelledBatch {
  DinBatch batch;
  Tensor labels;
};

// A model in training and the rows it learns from.
class DinTraining {
 public:
  explicit DinTraining(const BenchOptions& options)
      : device_(options.device),
        config_(bench_config()),
        data_(load_ctr_data(resolve_asset(options.data), CtrDataConfig{}, config_)),
        model_(din_options(config_, ctr_fields(data_.features), 0), 0, DType::f32, device_),
        adam_(model_.parameters(), {config_.lr, 0.9, 0.999, 1e-8, 0.0},
              adam_rules(config_, model_.tables().size(), model_.parameters().size())),
        order_(0, 0, std::ssize(data_.rows.rows_of(Split::train))) {
    if (order_.batches(config_.batch) < 2) throw UsageError("ctr: too few rows for a batch of 2048", "name a larger data set with --data");
  }

  std::int64_t batch_rows() const { return config_.batch; }

  // Batch `index` modulo the whole batches of an epoch.
  LabelledBatch cut(std::int64_t index) {
    const std::vector<std::int32_t>& train = data_.rows.rows_of(Split::train);
    rows_.clear();
    for (const std::int32_t place : order_.batch(index % (std::ssize(train) / config_.batch), config_.batch))
      rows_.push_back(train[static_cast<std::size_t>(place)]);
    data_.rows.fill(rows_, ids_);
    return {din_batch(ids_, model_.options(), {}, {}, DType::f32, device_), Tensor::of(ids_.label, {ids_.rows}, device_)};
  }

  double step(const LabelledBatch& ready) {
    adam_.clear_gradients();
    double loss = 0;
    {
      Tape tape;
      const Tensor mean = mean_all(
          bce_with_logits(model_.forward(ready.batch, {true, {}, {0, static_cast<std::uint32_t>(adam_.steps()), 0}}).logit, ready.labels));
      tape.backward(mean);
      loss = static_cast<double>(mean.item());
    }
    adam_.step(config_.lr, clip_factor(adam_.gradient_norm(), config_.clip));
    return loss;
  }

 private:
  Device device_;
  CtrConfig config_;
  CtrData data_;
  Din model_;
  Adam adam_;
  BatchOrder order_;
  CtrBatch ids_;
  std::vector<std::int32_t> rows_;
};

constexpr std::int64_t steps_of_repeat = 4;

ReadyBench prepare_din(const BenchOptions& options, bool ready_batches) {
  const auto training = std::make_shared<DinTraining>(options);
  std::vector<LabelledBatch> batches;
  for (std::int64_t i = 0; i < steps_of_repeat; ++i) batches.push_back(training->cut(i));
  // The loss of an untrained model on balanced labels is near ln 2; a step on the same rows lowers it.
  const double first = training->step(batches[0]);
  check_close("ctr/din", first, std::log(2.0), 0.1);
  double last = first;
  for (int i = 0; i < 3; ++i) last = training->step(batches[0]);
  if (!(last < first))
    throw Error(fmt::format("ctr/din: the loss went from {} to {} in three steps", first, last), "run the tests: make test");
  const auto next = std::make_shared<std::int64_t>(0);
  const auto body = [=] {
    for (std::int64_t i = 0; i < steps_of_repeat; ++i)
      training->step(ready_batches ? batches[static_cast<std::size_t>(i)] : training->cut((*next)++));
  };
  const std::int64_t samples = steps_of_repeat * training->batch_rows();
  return {{.shape = fmt::format("{}x{} history 50", steps_of_repeat, training->batch_rows()),
           .amount = static_cast<double>(samples),
           .unit = "samples/s"},
          timed(options.device, body)};
}

ReadyBench prepare_reading(const BenchOptions& options) {
  const std::filesystem::path place = resolve_asset(options.data);
  const auto load = [place] { return load_ctr_data(place, CtrDataConfig{}, bench_config()); };
  const std::int64_t rows = load().rows.rows();
  return {{.shape = fmt::format("{} rows", rows), .amount = static_cast<double>(rows), .unit = "rows/s"},
          timed(cpu_device, [load] { load(); })};
}

}  // namespace

std::vector<Bench> ctr_benches() {
  return {{"ctr/din_steps", "ctr", [](const BenchOptions& options) { return prepare_din(options, true); }},
          {"ctr/din_end_to_end", "ctr", [](const BenchOptions& options) { return prepare_din(options, false); }},
          {"data/prepare", "data", prepare_reading}};
}

}  // namespace expctr
