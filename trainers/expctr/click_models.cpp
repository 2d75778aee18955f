#include "trainers/expctr/click_models.h"

#include <numeric>

#include "trainers/ctr/train.h"

namespace expctr {

ClickModels::ClickModels(ExpctrSession& session)
    : session_(session),
      with_text_(load_din(session.stage_folder("stage2") / "with_text.safetensors", session.device())),
      text_free_(load_din(session.stage_folder("stage2") / "text_free.safetensors", session.device())) {}

ClickModels::Probabilities ClickModels::of(std::span<const std::int32_t> rows, std::span<const std::string> texts) {
  EmbedOptions options;
  options.max_pieces = session_.config().encoder_max_tokens;
  const std::vector<float> vectors = session_.encoder()(texts, options).to_vector<float>();
  std::vector<std::int32_t> own(rows.size());
  std::iota(own.begin(), own.end(), 0);
  const std::vector<std::int32_t> none(rows.size(), -1);
  const CtrDataset& dataset = session_.ctr_data().rows;
  return {predict_clicks(with_text_, dataset, rows, vectors, own), predict_clicks(with_text_, dataset, rows, vectors, none), predict_clicks(text_free_, dataset, rows)};
}

}  // namespace expctr
