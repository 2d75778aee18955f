#include "cli/model_options.h"

#include "base/error.h"
#include "data/fetch.h"
#include "engine/config/nearest.h"
#include "models/peft.h"

namespace expctr {

void add_model_options(CLI::App& app, ModelOptions& options, bool adapter) {
  app.add_option("--model", options.model, "a .gguf file, a Hugging Face folder, or a name that 'data fetch' knows (smollm2, minilm)")
      ->required()
      ->type_name("M");
  if (adapter) app.add_option("--adapter", options.adapter, "folder of a LoRA adapter (PEFT)")->type_name("DIR");
  app.add_option("--device", options.device, "cpu, cuda or cuda:N")->type_name("DEVICE")->capture_default_str();
  app.add_option("--compute", options.compute, "products with frozen weights in f32, bf16 or int8")
      ->type_name("MODE")
      ->capture_default_str();
}

ComputeMode parse_compute_mode(const std::string& name) {
  if (name == "f32") return ComputeMode::f32;
  if (name == "bf16") return ComputeMode::bf16;
  if (name == "int8") return ComputeMode::int8;
  throw UsageError(fmt::format("unknown compute mode '{}'", name), "choose f32, bf16 or int8");
}

const char* compute_mode_name(ComputeMode mode) {
  switch (mode) {
    case ComputeMode::bf16:
      return "bf16";
    case ComputeMode::int8:
      return "int8";
    default:
      return "f32";
  }
}

LanguageModel load_language_model(const ModelOptions& options) {
  const DecoderLoadOptions load{parse_device(options.device), parse_compute_mode(options.compute)};
  return LanguageModel::load(resolve_asset(options.model), load);
}

std::optional<LoraAdapter> load_adapter(const ModelOptions& options, const Decoder& decoder) {
  if (options.adapter.empty()) return std::nullopt;
  return load_peft(options.adapter, decoder.config(), DType::f32, decoder.device(), false);
}

}  // namespace expctr
