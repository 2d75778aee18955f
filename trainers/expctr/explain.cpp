// One pair on demand: the policy's sentence and the predictors' probabilities.
#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "trainers/expctr/click_models.h"
#include "trainers/expctr/explanations.h"
#include "trainers/expctr/policies.h"
#include "trainers/expctr/stages.h"
#include "trainers/rl/reward.h"

namespace expctr {
namespace {

std::int32_t known(const IdTable& table, const std::string& id, const char* what) {
  if (id.empty()) throw UsageError(fmt::format("explain: no {} given", what), fmt::format("name one with --{0} ID, or with --set explain.{0}=ID", what));
  const std::int32_t index = table.find(id);
  if (index < 0) throw UsageError(fmt::format("explain: the data has no {} '{}'", what, id), "use an id as it stands in the data");
  return index;
}

}  // namespace

void run_explain(ExpctrSession& session) {
  const ExpctrConfig& config = session.config();
  const Interactions& table = session.data().dataset().interactions;
  const std::int32_t user = known(table.users, config.explain_user, "user"), item = known(table.items, config.explain_item, "item");
  session.require_stage("stage1");
  const std::string stage = session.stage_complete("stage3") ? "stage3" : "stage1";

  // A logged pair is explained as it was at its time, any other one with all that is known now.
  const std::optional<std::int32_t> row = session.data().find(user, item);
  Pair pair;
  TextPair text;
  if (row) {
    pair = session.data().pair(*row);
    text = session.text_pair(pair);
  } else {
    const FoldAssignment fold = fold_of(table, user, item, config.pairs.folds);
    pair.user = user;
    pair.item = item;
    pair.row = -1;
    pair.fold = fold.fold;
    pair.policy = fold.policy;
    text = session.text_pair(pair, session.data().context_now(user, item));
  }
  const Policy policy = load_policy(session, stage, pair.policy);
  const Explanation e = explain_pair(session, &policy, text);
  nlohmann::json record = {{"user", config.explain_user}, {"item", config.explain_item}, {"label", row ? nlohmann::json(pair.label) : nlohmann::json(nullptr)}, {"explanation", e.text},
                           {"p_lc", std::exp(log_sigmoid(e.margin))}, {"p_lc_no_text", std::exp(log_sigmoid(e.base_margin))}, {"p_ic", nullptr}, {"p_id", nullptr}, {"policy", e.policy},
                           {"seed", e.seed}, {"tokens", e.tokens}};
  if (row && session.stage_complete("stage2")) {
    const std::int32_t rows[] = {*row};
    const std::string texts[] = {e.text};
    const ClickModels::Probabilities p = ClickModels(session).of(rows, texts);
    record["p_ic"] = p.p_ic[0];
    record["p_id"] = p.p_id[0];
  }
  if (session.options().json) {
    std::printf("%s\n", record.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    return;
  }
  std::printf("%s  %s\n", text.context.target.c_str(), text.context.genres.empty() ? "" : ("(" + text.context.genres + ")").c_str());
  std::printf("%s\n", e.text.empty() ? "(the policy wrote nothing)" : e.text.c_str());
  std::printf("p(like) %.3f with the explanation, %.3f without", record["p_lc"].get<double>(), record["p_lc_no_text"].get<double>());
  if (record["p_ic"].is_number()) std::printf("; click model %.3f with the text, text-free %.3f", record["p_ic"].get<double>(), record["p_id"].get<double>());
  if (row) std::printf("; the user %s it", pair.label != 0 ? "liked" : "did not like");
  std::printf("\n");
}

}  // namespace expctr
