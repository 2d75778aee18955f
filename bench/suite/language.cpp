// Language model and sentence embeddings end to end: SmolLM2-135M and MiniLM-L6 unless other models are named.
#include "bench/suite/language.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"
#include "bench/suite/measure.h"
#include "data/fetch.h"
#include "engine/autograd/tape.h"
#include "engine/ops/reduce.h"
#include "engine/optim/adam.h"
#include "inference/embedder.h"
#include "inference/generator.h"

namespace expctr {

std::shared_ptr<const Decoder> load_bench_decoder(const BenchOptions& options) {
  return std::make_shared<const Decoder>(load_decoder(resolve_asset(options.language_model), {options.device, options.mode}));
}

ModelWork count_model(const Decoder& decoder) {
  ModelWork work;
  const DecoderConfig& config = decoder.config();
  const DecoderLayer& layer = decoder.layers().front();
  for (const Linear* linear : {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
    work.layer_flops += 2.0 * static_cast<double>(linear->inputs() * linear->outputs());
    work.weight_bytes += static_cast<double>(config.layers) *
                         static_cast<double>(linear->is_frozen() ? linear->frozen_weight().bytes() : linear->weight().bytes());
  }
  work.body_flops = static_cast<double>(config.layers) * work.layer_flops;
  work.head_flops = 2.0 * static_cast<double>(config.width * config.vocabulary);
  work.weight_bytes +=
      static_cast<double>(decoder.head().is_frozen() ? decoder.head().frozen_weight().bytes() : decoder.head().weight().bytes());
  const bool frozen = layer.q.is_frozen();
  const DType dtype = frozen ? layer.q.frozen_weight().packed().dtype : layer.q.weight().dtype();
  const ComputeMode mode = frozen ? layer.q.frozen_weight().packed().mode : ComputeMode::f32;
  work.dtype = dtype_name(dtype);
  // Products in float32 with block-quantised weights go by the weights' name.
  work.mode = mode == ComputeMode::f32 && is_quantised(dtype) ? dtype_name(dtype) : mode_name(mode);
  return work;
}

std::int64_t bench_pages(std::int64_t batch, std::int64_t tokens) {
  return (KvCache::pages_for(tokens) + 1) * (batch + 2) + KvCache::pages_for(forward_token_budget) * 2;
}

namespace {

std::vector<GenerationRequest> random_prompts(const Decoder& decoder, std::int64_t count, std::int64_t tokens) {
  std::vector<GenerationRequest> requests;
  for (std::int64_t i = 0; i < count; ++i)
    requests.push_back({random_ids(fmt::format("prompt {}", i), tokens, decoder.config().vocabulary), static_cast<std::uint32_t>(i)});
  return requests;
}

GenerationOptions greedy(std::int64_t new_tokens, std::int64_t batch) {
  GenerationOptions generation;
  generation.max_new_tokens = new_tokens;
  generation.sampling.temperature = 0;
  generation.batch = batch;
  generation.remember_prompts = false;
  return generation;
}

// The likeliest token after a prompt, by one pass over all of it.
std::int32_t likeliest(const Decoder& decoder, const Tokens& prompt) {
  const NoGradient off;
  const auto n = static_cast<std::int64_t>(prompt.size());
  const std::int64_t lengths[] = {n};
  const Tensor hidden = decoder.blocks(0, decoder.config().layers, decoder.embed(Tensor::of(prompt, {n}, decoder.device())),
                                       whole_sequences(lengths, decoder.device()));
  const std::vector<float> logits = decoder.logits(decoder.normalise(hidden.slice_rows(n - 1, 1))).to(cpu_device).to_vector<float>();
  for (const float logit : logits)
    if (!std::isfinite(logit)) throw Error("the model's logits are not finite", "run expctr_engine doctor");
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// Tokens that decoding chooses are those that a pass over the whole text chooses.
void check_decoding(const std::string& bench, const Decoder& decoder) {
  std::vector<GenerationRequest> requests = random_prompts(decoder, 2, 40);
  PrefixStore store(decoder, 0, 0, bench_pages(2, 64));
  const std::vector<Generation> generations = generate(store, nullptr, requests, greedy(3, 2));
  for (std::size_t i = 0; i < requests.size(); ++i) {
    Tokens text = requests[i].prompt;
    for (const std::int32_t token : generations[i].tokens) {
      check_close(bench, token, likeliest(decoder, text), 0);
      text.push_back(token);
    }
  }
}

ReadyBench prepare_prefill(const BenchOptions& options) {
  constexpr std::int64_t tokens = 512;
  const std::shared_ptr<const Decoder> decoder = load_bench_decoder(options);
  check_decoding("llm/prefill_512", *decoder);
  const ModelWork model = count_model(*decoder);
  const Tokens prompt = random_ids("prefill", tokens, decoder->config().vocabulary);
  return {{.shape = fmt::format("1x{}", tokens),
           .mode = model.mode,
           .dtype = model.dtype,
           .amount = tokens,
           .unit = "tokens/s",
           .flops = tokens * model.body_flops + model.head_flops},
          timed(options.device, [decoder, prompt] { likeliest(*decoder, prompt); })};
}

// New tokens a second behind a prompt; the prompt's pass and the first token are not counted.
ReadyBench prepare_decode(const BenchOptions& options, std::int64_t batch, std::int64_t prompt_tokens) {
  constexpr std::int64_t new_tokens = 33;
  const std::shared_ptr<const Decoder> decoder = load_bench_decoder(options);
  check_decoding(fmt::format("llm/decode_b{}", batch), *decoder);
  const ModelWork model = count_model(*decoder);
  const std::vector<GenerationRequest> requests = random_prompts(*decoder, batch, prompt_tokens);
  const auto once = [=, device = options.device]() -> Elapsed {
    PrefixStore store(*decoder, 0, 0, bench_pages(batch, prompt_tokens + new_tokens));
    std::optional<StopWatch> watch;
    std::int64_t came = 0;
    const auto on_token = [&](std::size_t, std::int32_t) {
      if (++came == batch) watch.emplace();
    };
    generate(store, nullptr, requests, greedy(new_tokens, batch), nullptr, on_token);
    synchronise(device);
    return watch->elapsed();
  };
  const double steps = new_tokens - 1, amount = steps * static_cast<double>(batch);
  return {{.shape = fmt::format("{}x{} after {}", batch, new_tokens - 1, prompt_tokens),
           .mode = model.mode,
           .dtype = model.dtype,
           .amount = amount,
           .unit = "tokens/s",
           .flops = amount * (model.body_flops + model.head_flops),
           .bytes = steps * model.weight_bytes},
          once};
}

ReadyBench prepare_lora_step(const BenchOptions& options) {
  constexpr std::int64_t batch = 8, length = 128, tokens = batch * length, predicted = batch * (length - 1);
  const std::shared_ptr<const Decoder> decoder = load_bench_decoder(options);
  const ModelWork model = count_model(*decoder);
  const DecoderConfig& config = decoder->config();
  LoraConfig lora;
  lora.last_layer = config.layers;
  const auto adapter = std::make_shared<LoraAdapter>(config, lora, 0, DType::f32, options.device, true);
  const auto optimiser = std::make_shared<Adam>(adapter->parameters(), AdamOptions{1e-4, 0.9, 0.999, 1e-8, 0.01});
  const std::vector<std::int32_t> ids = random_ids("lora", tokens, config.vocabulary);
  std::vector<std::int32_t> targets(static_cast<std::size_t>(tokens), -1);
  for (std::int64_t t = 0; t + 1 < tokens; ++t)
    if ((t + 1) % length != 0) targets[static_cast<std::size_t>(t)] = ids[static_cast<std::size_t>(t + 1)];
  const Tensor input = Tensor::of(ids, {tokens}, options.device), target = Tensor::of(targets, {tokens}, options.device);
  const TokenContext context = whole_sequences(std::vector<std::int64_t>(batch, length), options.device);
  const auto step = [=]() -> double {
    optimiser->clear_gradients();
    Tape tape;
    const Tensor hidden = decoder->blocks(0, decoder->config().layers, decoder->embed(input), context, AdapterPlan(adapter.get()));
    const Tensor loss = sum_all(decoder->score(decoder->normalise(hidden), target).log_probability, -1.0 / predicted);
    tape.backward(loss);
    optimiser->step();
    return static_cast<double>(loss.item());
  };
  const double first = step();
  double last = first;
  for (int i = 0; i < 2; ++i) last = step();
  if (!std::isfinite(last) || last >= first)
    throw Error(fmt::format("llm/lora_step_8x128: the loss went from {} to {} in two steps", first, last), "run the tests: make test");
  // Forward and the gradient of the activations; the adapter's own products are a hundredth of it.
  return {{.shape = fmt::format("{}x{}", batch, length),
           .mode = model.mode,
           .dtype = model.dtype,
           .amount = tokens,
           .unit = "tokens/s",
           .flops = 2.0 * tokens * (model.body_flops + model.head_flops)},
          timed(options.device, [step] { step(); })};
}

ReadyBench prepare_embed(const BenchOptions& options, std::int64_t pieces) {
  constexpr std::int64_t batch = 64;
  const auto embedder = std::make_shared<const Embedder>(resolve_asset(options.text_encoder), options.device, options.mode);
  std::vector<std::vector<std::int32_t>> texts;
  for (std::int64_t i = 0; i < batch; ++i)
    texts.push_back(random_ids(fmt::format("text {}", i), pieces, std::min<std::int64_t>(30000, embedder->encoder().config().vocabulary)));
  EmbedOptions embedding;
  embedding.batch_pieces = batch * pieces;
  // A text alone and among others gives the same vector.
  const float together = embedder->of_pieces(texts, embedding).to_vector<float>()[0],
              alone = embedder->of_pieces({texts[0]}, embedding).to_vector<float>()[0];
  check_close(fmt::format("llm/embed_{}", pieces), static_cast<double>(together), static_cast<double>(alone),
              options.device.is_cuda() ? 1e-4 : 0.0);
  return {{.shape = fmt::format("{}x{}", batch, pieces), .mode = mode_name(options.mode), .amount = batch, .unit = "sentences/s"},
          timed(options.device, [=] { embedder->of_pieces(texts, embedding); })};
}

}  // namespace

std::vector<Bench> language_model_benches() {
  return {{"llm/prefill_512", "llm", prepare_prefill},
          {"llm/decode_b1", "llm", [](const BenchOptions& options) { return prepare_decode(options, 1, 1); }},
          {"llm/decode_b16", "llm", [](const BenchOptions& options) { return prepare_decode(options, 16, 128); }},
          {"llm/lora_step_8x128", "llm", prepare_lora_step},
          {"llm/embed_32", "llm", [](const BenchOptions& options) { return prepare_embed(options, 32); }},
          {"llm/embed_128", "llm", [](const BenchOptions& options) { return prepare_embed(options, 128); }}};
}

}  // namespace expctr
