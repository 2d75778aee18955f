#include "inference/answer_scorer.h"

#include "base/error.h"
#include "engine/autograd/tape.h"
#include "engine/ops/embedding.h"

namespace expctr {

AnswerScorer::AnswerScorer(PrefixStore& store, const LoraAdapter* adapter, LanguageModel::Answers answers) : store_(store), adapter_(adapter) {
  if (adapter != nullptr && adapter->config().first_layer < store.split()) throw UsageError("scoring: the adapter has layers below the store's split", "split the store at the adapter's first layer");
  const std::int32_t ids[] = {answers.yes, answers.no};
  head_ = store.decoder().head_rows(ids);
}

std::vector<double> AnswerScorer::margins(std::span<const Tokens> prompts, bool remember) {
  const NoGradient no_gradient;
  const Decoder& decoder = store_.decoder();
  std::vector<double> result;
  std::size_t next = 0;
  while (next < prompts.size()) {
    const std::size_t first = next;
    std::vector<std::int64_t> lengths;
    std::vector<std::int32_t> last;
    std::int64_t tokens = 0;
    while (next < prompts.size() && (next == first || tokens + static_cast<std::int64_t>(prompts[next].size()) <= forward_token_budget)) {
      if (prompts[next].empty()) throw UsageError("scoring: a prompt has no tokens", "give at least one token");
      lengths.push_back(static_cast<std::int64_t>(prompts[next].size()));
      tokens += lengths.back();
      last.push_back(static_cast<std::int32_t>(tokens - 1));
      ++next;
    }
    const Tensor lower = store_.run(prompts.subspan(first, next - first), remember, false).hidden;
    const Tensor hidden = decoder.blocks(store_.split(), decoder.config().layers, lower, whole_sequences(lengths, decoder.device()), AdapterPlan(adapter_));
    const auto n = static_cast<std::int64_t>(last.size());
    const std::vector<float> logits = head_(decoder.normalise(gather(hidden, Tensor::of(last, {n}, decoder.device())))).to_vector<float>();
    for (std::size_t i = 0; i < last.size(); ++i) result.push_back(static_cast<double>(logits[2 * i]) - static_cast<double>(logits[2 * i + 1]));
  }
  return result;
}

}  // namespace expctr
