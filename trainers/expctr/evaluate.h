// What evaluation, report and `explain` share.
#pragma once

#include <map>

#include "inference/explanation_store.h"
#include "trainers/expctr/session.h"

namespace expctr {

/// The newest explanation of each row, over all complete stages.
std::map<std::int32_t, Explanation> newest_explanations(ExpctrSession& session);

/// <out>/explanations.jsonl: one record a pair with text, the fields of the command line's documentation; p_ic and reward_ic are null before stage 2.
void write_final_explanations(ExpctrSession& session);

}  // namespace expctr
