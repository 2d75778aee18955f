// Options that the commands on models share.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "inference/language_model.h"
#include "models/lora.h"

namespace expctr {

struct ModelOptions {
  std::string model, adapter, device = "cpu", compute = "f32";
};

/// --model, --device, --compute and, where asked for, --adapter.
void add_model_options(CLI::App& app, ModelOptions& options, bool adapter);

/// "f32", "bf16", "int8". Throws UsageError.
ComputeMode parse_compute_mode(const std::string& name);
const char* compute_mode_name(ComputeMode mode);

/// Loads the language model that --model names (a path, or an asset that was fetched).
LanguageModel load_language_model(const ModelOptions& options);
/// The PEFT folder of --adapter on this decoder; nothing when there is none.
std::optional<LoraAdapter> load_adapter(const ModelOptions& options, const Decoder& decoder);

}  // namespace expctr
