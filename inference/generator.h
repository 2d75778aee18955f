// Batched text generation with continuous batching: finished rows leave, waiting rows enter.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/ops/sampling.h"
#include "inference/prefix_store.h"
#include "models/lora.h"

namespace expctr {

struct GenerationRequest {
  Tokens prompt;             ///< at least one token
  std::uint32_t sample = 0;  ///< names the row for the random numbers: the result does not depend on the batch
};

struct GenerationOptions {
  std::int64_t max_new_tokens = 64;
  SamplingOptions sampling;
  std::uint64_t seed = 0;
  std::uint32_t step = 0;                 ///< further part of the random counter
  std::vector<std::int32_t> stop_tokens;  ///< generation ends with (and includes) one of these
  std::int64_t batch = 16;
  bool remember_prompts = true;           ///< keep the prompts' lower blocks in the store
  bool keep_states = false;               ///< fill split_hidden and final_hidden
};

struct Generation {
  Tokens tokens;                         ///< the stop token included
  std::vector<float> log_probabilities;  ///< log softmax(logits / temperature) of each token, from the forward that training uses
  bool ended = false;                    ///< a stop token came; otherwise the length limit
  Tensor split_hidden;                   ///< [prompt + tokens - 1, width]: input of the adapted blocks
  Tensor final_hidden;                   ///< [tokens, width]: normalised state that predicted each token
};

struct GenerationStatistics {
  double prefill_seconds = 0.0, decode_seconds = 0.0;
  std::int64_t prompt_tokens = 0, new_tokens = 0;
};

/// One generation per request, in the order of the requests. `adapter` (or null) acts in the blocks above the store's split. `on_token(request, token)` is called as tokens come.
std::vector<Generation> generate(PrefixStore& store, const LoraAdapter* adapter, std::span<const GenerationRequest> requests, const GenerationOptions& options,
                                 GenerationStatistics* statistics = nullptr, const std::function<void(std::size_t, std::int32_t)>& on_token = {});

}  // namespace expctr
