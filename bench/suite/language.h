// What the benchmarks of language models share.
#pragma once

#include <memory>
#include <string>

#include "bench/suite/bench.h"
#include "models/llm/load.h"

namespace expctr {

std::shared_ptr<const Decoder> load_bench_decoder(const BenchOptions& options);

/// Linear maps only; attention adds a few per cent at these lengths and is left out, as in the published figures.
struct ModelWork {
  double layer_flops = 0, body_flops = 0, head_flops = 0;  ///< of one token: one layer, all layers, the logits
  double weight_bytes = 0;                                 ///< what a decoding step reads
  std::string mode, dtype;
};
ModelWork count_model(const Decoder& decoder);

/// Pages that a PrefixStore needs for `batch` sequences of up to `tokens` tokens.
std::int64_t bench_pages(std::int64_t batch, std::int64_t tokens);

}  // namespace expctr
