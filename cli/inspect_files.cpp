#include <fmt/format.h>

#include "base/error.h"
#include "cli/inspect.h"
#include "engine/io/checked_json.h"
#include "engine/io/checkpoint.h"
#include "engine/io/gguf.h"
#include "engine/io/npy.h"
#include "engine/io/quoted.h"
#include "engine/io/safetensors.h"

namespace expctr {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

json description(const char* kind, const fs::path& path) {
  return {{"kind", kind},
          {"path", path.string()},
          {"metadata", json::object()},
          {"tensors", json::array()},
          {"unsupported", json::array()},
          {"values", std::int64_t{0}},
          {"bytes", std::int64_t{0}}};
}

void add_tensor(json& found, const std::string& name, DType dtype, const std::vector<std::int64_t>& shape, std::size_t bytes) {
  std::int64_t values = 1;
  for (const std::int64_t extent : shape) values *= extent;
  found["tensors"].push_back({{"name", name}, {"dtype", dtype_name(dtype)}, {"shape", shape}, {"bytes", bytes}});
  found["values"] = found["values"].get<std::int64_t>() + values;
  found["bytes"] = found["bytes"].get<std::int64_t>() + static_cast<std::int64_t>(bytes);
}

template <class File>
void add_tensors(json& found, const File& file) {
  for (const TensorInfo& tensor : file.tensors()) add_tensor(found, tensor.name, tensor.dtype, tensor.shape, tensor.bytes);
  for (const UnsupportedTensor& tensor : file.unsupported()) found["unsupported"].push_back({{"name", tensor.name}, {"type", tensor.type}});
}

// A metadata value; arrays by their type and length.
json gguf_value(const GgufFile& file, const std::string& key) {
  const GgufType type = file.type(key);
  try {
    switch (type) {
      case GgufType::string:
        return *file.find_string(key);
      case GgufType::boolean:
        return *file.find_bool(key);
      case GgufType::f32:
      case GgufType::f64:
        return *file.find_f32(key);
      default:
        return *file.find_i64(key);
    }
  } catch (const InputError&) {
    return fmt::format("[{} x {}]", gguf_type_name(type), file.count(key));
  }
}

json inspect_gguf(const fs::path& path) {
  const GgufFile file = GgufFile::open(path);
  json found = description("gguf", path);
  found["version"] = file.version();
  for (const std::string& key : file.keys()) found["metadata"][key] = gguf_value(file, key);
  add_tensors(found, file);
  return found;
}

json inspect_safetensors(const fs::path& path, const char* kind) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  json found = description(kind, path);
  for (const auto& [key, value] : file.metadata()) found["metadata"][key] = value;
  add_tensors(found, file);
  return found;
}

json inspect_npy(const fs::path& path) {
  const NpyArray array = read_npy(path);
  json found = description("npy", path);
  add_tensor(found, "array", array.dtype, array.shape, array.bytes.size());
  return found;
}

json inspect_checkpoint(const fs::path& folder) {
  const Checkpoint checkpoint = Checkpoint::open(folder);
  json found = description("checkpoint", folder);
  found["label"] = checkpoint.label();
  found["config"] = checkpoint.config();
  found["metadata"] = checkpoint.state().is_object() ? checkpoint.state() : json::object();
  for (const NamedBlob& blob : checkpoint.tensors()) add_tensor(found, blob.name, blob.dtype, blob.shape, blob.bytes.size());
  return found;
}

void add_json_file(json& found, const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const json values = parse_checked_json(text, path.string(), 32);
  if (!values.is_object()) throw InputError(path.string() + ": not a JSON object", "the folder is damaged");
  for (const auto& [key, value] : values.items()) found["metadata"][key] = value;
}

json inspect_folder(const fs::path& folder) {
  if (fs::exists(folder / "manifest.json")) return inspect_checkpoint(folder);
  if (fs::exists(folder / "adapter_config.json")) {
    json found = inspect_safetensors(folder / "adapter_model.safetensors", "peft");
    add_json_file(found, folder / "adapter_config.json");
    return found;
  }
  if (fs::exists(folder / "model.safetensors") || fs::exists(folder / "model.safetensors.index.json")) {
    json found = inspect_safetensors(folder, "hugging_face");
    if (fs::exists(folder / "config.json")) add_json_file(found, folder / "config.json");
    return found;
  }
  const std::vector<fs::path> checkpoints = list_checkpoints(folder);
  if (!checkpoints.empty()) return inspect_checkpoint(checkpoints.back());
  throw InputError(folder.string() + ": neither a model, an adapter nor a checkpoint",
                   "name a file in it, or a folder with model.safetensors or manifest.json");
}

}  // namespace

json inspect_path(const fs::path& path) {
  if (fs::is_directory(path)) return inspect_folder(path);
  std::ifstream file(path, std::ios::binary);
  if (!file) throw InputError(path.string() + ": cannot be read", "check the name and the permissions");
  std::array<char, 8> start{};
  file.read(start.data(), start.size());
  const std::string_view magic(start.data(), static_cast<std::size_t>(file.gcount()));
  if (magic.starts_with("GGUF") || path.extension() == ".gguf") return inspect_gguf(path);
  if (magic.starts_with("\x93NUMPY") || path.extension() == ".npy") return inspect_npy(path);
  if (path.extension() == ".safetensors") return inspect_safetensors(path, "safetensors");
  throw InputError(fmt::format("{}: starts with {}, which is no file this command knows", path.string(), quoted_text(magic)),
                   "it reads .gguf, .safetensors and .npy files and folders of models, adapters and checkpoints");
}

}  // namespace expctr
