// The counts `data stats` prints.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>

#include "data/interactions.h"

namespace expctr {

/// {"rows","users","items","positive_share","first_time","last_time","skipped","seconds","peak_bytes"} of a folder or an .inter file;
/// positive_share and times are null without ratings and times; peak_bytes is the process's. "warnings" lists what was noticed.
nlohmann::json data_stats(const std::filesystem::path& path, const LabelRule& rule, InteractionColumns columns = {});

}  // namespace expctr
