#include "inference/generator.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "base/philox.h"
#include "engine/autograd/tape.h"
#include "engine/ops/embedding.h"

namespace expctr {
namespace {

struct Row {
  std::size_t request;
  LowerSequence lower;
  CachedSequence upper;                ///< in the cache of this call, which goes with it
  std::int64_t prompt_tokens;
  Tensor prompt_hidden;                ///< waiting for the upper blocks; undefined once decoding
  std::vector<Tensor> response_hidden; ///< [1, width] each, when states are kept
  std::vector<Tensor> final_hidden;
};

double seconds_since(std::chrono::steady_clock::time_point start) { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); }

Tensor stack_rows(std::span<const Tensor> parts, std::int64_t width, Device device) {
  std::int64_t rows = 0;
  for (const Tensor& part : parts) rows += part.dim(0);
  Tensor result = Tensor::empty({rows, width}, DType::f32, device);
  std::int64_t at = 0;
  for (const Tensor& part : parts) {
    if (part.dim(0) > 0) result.slice_rows(at, part.dim(0)).copy_from(part);
    at += part.dim(0);
  }
  return result;
}

}  // namespace

std::vector<Generation> generate(PrefixStore& store, const LoraAdapter* adapter, std::span<const GenerationRequest> requests, const GenerationOptions& options,
                                 GenerationStatistics* statistics, const std::function<void(std::size_t, std::int32_t)>& on_token) {
  const NoGradient no_gradient;
  const Decoder& decoder = store.decoder();
  const DecoderConfig& config = decoder.config();
  const Device device = decoder.device();
  if (adapter != nullptr && adapter->config().first_layer < store.split()) {
    throw UsageError(fmt::format("generation: the adapter starts at layer {}, the store is split at {}", adapter->config().first_layer, store.split()), "split the store at the adapter's first layer");
  }
  if (options.max_new_tokens < 1 || options.batch < 1) throw UsageError("generation: max_new_tokens and batch are at least 1");

  std::int64_t longest = 0;
  for (const GenerationRequest& request : requests) {
    if (request.prompt.empty()) throw UsageError("generation: a prompt has no tokens", "give at least one token, e.g. through --chat or the model's start token");
    longest = std::max(longest, static_cast<std::int64_t>(request.prompt.size()));
  }
  const std::int64_t batch = std::min<std::int64_t>(options.batch, static_cast<std::int64_t>(requests.size()));
  KvCache upper_cache(store.split(), config.layers, decoder.kv_row_width(), batch * KvCache::pages_for(longest + options.max_new_tokens), device);
  const AdapterPlan plan(adapter);
  const RandomKey key = random_key(options.seed, "sampling");

  std::vector<Generation> results(requests.size());
  std::vector<Row> rows;
  std::size_t next = 0;
  GenerationStatistics counted;
  while (next < requests.size() || !rows.empty()) {
    const auto start = std::chrono::steady_clock::now();
    // Rows that decode already: their last token goes through the lower blocks.
    const std::size_t decoding = rows.size();
    Tensor step_hidden;
    if (decoding > 0) {
      std::vector<CachedSequence*> sequences;
      std::vector<std::int32_t> ids;
      for (Row& row : rows) {
        sequences.push_back(&*row.lower);
        ids.push_back(results[row.request].tokens.back());
      }
      step_hidden = store.advance(sequences, ids);
    }
    // Rows that enter: whole prompts, as many as one forward pass should take.
    std::vector<Tokens> entering;
    std::int64_t entering_tokens = 0;
    while (next < requests.size() && static_cast<std::int64_t>(rows.size() + entering.size()) < batch) {
      const auto tokens = static_cast<std::int64_t>(requests[next].prompt.size());
      if (!entering.empty() && entering_tokens + tokens > forward_token_budget) break;
      entering.push_back(requests[next].prompt);
      entering_tokens += tokens;
      ++next;
    }
    if (!entering.empty()) {
      PrefixStore::Lower lower = store.run(entering, options.remember_prompts, true);
      std::int64_t at = 0;
      for (std::size_t i = 0; i < entering.size(); ++i) {
        const auto tokens = static_cast<std::int64_t>(entering[i].size());
        rows.push_back({next - entering.size() + i, std::move(lower.sequences[i]), {}, tokens, lower.hidden.slice_rows(at, tokens), {}, {}});
        at += tokens;
      }
      counted.prompt_tokens += entering_tokens;
    }
    // Upper blocks: one ragged batch of prompts and single tokens.
    std::vector<Tensor> parts;
    std::vector<std::int64_t> counts;
    std::vector<CachedSequence*> sequences;
    std::vector<std::int32_t> last_rows;
    std::int64_t at = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      parts.push_back(i < decoding ? step_hidden.slice_rows(static_cast<std::int64_t>(i), 1) : rows[i].prompt_hidden);
      counts.push_back(parts.back().dim(0));
      sequences.push_back(&rows[i].upper);
      at += counts.back();
      last_rows.push_back(static_cast<std::int32_t>(at - 1));
      if (options.keep_states && i < decoding) rows[i].response_hidden.push_back(parts.back());
    }
    const TokenContext context = continue_sequences(upper_cache, sequences, counts, device);
    const Tensor hidden = decoder.blocks(store.split(), config.layers, stack_rows(parts, config.width, device), context, plan);
    const auto count = static_cast<std::int64_t>(rows.size());
    const Tensor final_hidden = decoder.normalise(gather(hidden, Tensor::of(last_rows, {count}, device)));

    std::vector<float> u;
    for (const Row& row : rows) {
      const RandomBits bits = philox(key, {options.step, requests[row.request].sample, static_cast<std::uint32_t>(results[row.request].tokens.size()), 0});
      u.push_back(uniform_float(bits.word[0]));
    }
    const SampledTokens sampled = sample_tokens(decoder.logits(final_hidden), Tensor::of(u, {count}, device), options.sampling);
    const std::vector<std::int32_t> tokens = sampled.token.to_vector<std::int32_t>();
    const std::vector<float> log_probabilities = sampled.log_probability.to_vector<float>();

    std::vector<Row> remaining;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      Row& row = rows[i];
      Generation& result = results[row.request];
      result.tokens.push_back(tokens[i]);
      result.log_probabilities.push_back(log_probabilities[i]);
      if (on_token) on_token(row.request, tokens[i]);
      if (options.keep_states) row.final_hidden.push_back(final_hidden.slice_rows(static_cast<std::int64_t>(i), 1).clone());
      result.ended = std::find(options.stop_tokens.begin(), options.stop_tokens.end(), tokens[i]) != options.stop_tokens.end();
      if (!result.ended && static_cast<std::int64_t>(result.tokens.size()) < options.max_new_tokens) {
        if (!options.keep_states) row.prompt_hidden = {};
        remaining.push_back(std::move(row));
        continue;
      }
      if (options.keep_states) {
        std::vector<Tensor> states = {row.prompt_hidden};
        states.insert(states.end(), row.response_hidden.begin(), row.response_hidden.end());
        result.split_hidden = stack_rows(states, config.width, device);
        result.final_hidden = stack_rows(row.final_hidden, config.width, device);
      }
      upper_cache.release(row.upper);
    }
    rows = std::move(remaining);
    counted.new_tokens += static_cast<std::int64_t>(tokens.size());
    (entering.empty() ? counted.decode_seconds : counted.prefill_seconds) += seconds_since(start);
  }
  if (statistics != nullptr) *statistics = counted;
  return results;
}

}  // namespace expctr
