// A whole run of ExpCTR in miniature: models of random weights, made-up ratings and a configuration, written in a moment and always the
// same.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace expctr {

/// What stands in the folder:
///   model/     a Llama-type decoder as a Hugging Face folder: width 32, 4 layers, 4 query and 2 key-value heads, byte-level BPE, SmolLM2's
///   chat
///              template; "Yes" and "No" are single tokens
///   encoder/   a BERT-type encoder as a Hugging Face folder: width 32, 2 layers, WordPiece
///   data/      tiny.inter, tiny.item, tiny.user: 60 users, 40 items, 15 ratings a user, some of them at the same time
///   tiny.yaml  the configuration of `run expctr`, with absolute paths
struct TinyRun {
  std::filesystem::path folder;
  std::filesystem::path model() const { return folder / "model"; }
  std::filesystem::path encoder() const { return folder / "encoder"; }
  std::filesystem::path data() const { return folder / "data"; }
  std::filesystem::path interactions() const { return data() / "tiny.inter"; }
  std::filesystem::path config() const { return folder / "tiny.yaml"; }

  /// Words of the command line that start `job` with results in `out`; `more` behind them. On one thread unless `more` names a number:
  /// waiting for each other costs most of the time where everything is tiny and the machine is busy.
  std::vector<std::string> command(const std::string& job, const std::filesystem::path& out,
                                   const std::vector<std::string>& more = {}) const;
};

/// Writes all that into `folder`.
TinyRun write_tiny_run(const std::filesystem::path& folder);

}  // namespace expctr
