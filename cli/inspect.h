// What `inspect` finds in a file or folder.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

namespace expctr {

/// {"kind","path","metadata":{...},"tensors":[{"name","dtype","shape","bytes"}],"unsupported":[{"name","type"}],"values","bytes"}; kind is
/// gguf, safetensors, npy, checkpoint, peft or hugging_face. Opening verifies as the readers do. Throws InputError for what is none of
/// these or is damaged.
nlohmann::json inspect_path(const std::filesystem::path& path);

}  // namespace expctr
