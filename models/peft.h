// Adapters as PEFT folders: adapter_config.json and adapter_model.safetensors.
#pragma once

#include <filesystem>
#include <string>

#include "models/lora.h"

namespace expctr {

/// Reads a LoRA folder onto a decoder. Strict: tensors that are missing, unexpected or misshapen are listed and refused (InputError), as are
/// options that change the arithmetic (rslora, dora, biases, per-module ranks).
LoraAdapter load_peft(const std::filesystem::path& folder, const DecoderConfig& decoder, DType dtype, Device device, bool trained);

/// Writes the folder, atomically file by file. `base_hash` names the base weights that the adapter belongs to.
void save_peft(const std::filesystem::path& folder, const LoraAdapter& adapter, const std::string& base_model, const std::string& base_hash);

}  // namespace expctr
