// Decoders from files: GGUF, or a Hugging Face folder.
#pragma once

#include <filesystem>

#include "models/llm/decoder.h"

namespace expctr {

struct DecoderLoadOptions {
  Device device;
  ComputeMode mode = ComputeMode::f32;
  /// Dense weights of this dtype that require gradients, instead of frozen packed ones: full fine-tuning of small models, and float64 checks.
  bool dense = false;
  DType dense_dtype = DType::f32;
};

/// Strict: tensors that are missing, not expected, or of another shape than the configuration says are listed, and the file is refused (InputError).
/// Block-quantised weights stay as they are in the file. Query and key rows of Llama-type GGUF files are put into the order of Hugging Face folders.
Decoder load_decoder(const std::filesystem::path& path, const DecoderLoadOptions& options = {});

}  // namespace expctr
