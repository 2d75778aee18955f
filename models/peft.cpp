#include "models/peft.h"

#include <fmt/format.h>

#include <set>

#include "base/error.h"
#include "engine/io/checked_json.h"
#include "engine/io/dequantise.h"
#include "engine/io/durable_file.h"
#include "engine/io/mapped_file.h"
#include "engine/io/safetensors.h"

namespace expctr {

LoraAdapter load_peft(const std::filesystem::path& folder, const DecoderConfig& decoder, DType dtype, Device device, bool trained) {
  const std::filesystem::path path = folder / "adapter_config.json";
  const MappedFile text(path);
  const nlohmann::json root = parse_checked_json({reinterpret_cast<const char*>(text.bytes().data()), text.bytes().size()}, path.string(), 16);
  const auto fail = [&](const std::string& what) { throw InputError(fmt::format("{}: {}", path.string(), what), "plain LoRA on named projections is supported"); };
  if (!root.is_object()) fail("not an object");
  if (root.value("peft_type", nlohmann::json("LORA")) != "LORA") fail("'peft_type' is not LORA");
  for (const char* flag : {"use_rslora", "use_dora", "fan_in_fan_out"}) {
    if (const auto found = root.find(flag); found != root.end() && *found == true) fail(fmt::format("'{}' is set", flag));
  }
  if (const auto bias = root.find("bias"); bias != root.end() && *bias != "none") fail("'bias' is not none");
  for (const char* pattern : {"rank_pattern", "alpha_pattern"}) {
    if (const auto found = root.find(pattern); found != root.end() && found->is_object() && !found->empty()) fail(fmt::format("'{}' is set", pattern));
  }
  const auto rank = root.find("r"), alpha = root.find("lora_alpha"), targets = root.find("target_modules");
  if (rank == root.end() || !rank->is_number_integer() || rank->get<std::int64_t>() < 1 || rank->get<std::int64_t>() > 65536) fail("'r' is missing or out of range");
  if (alpha == root.end() || !alpha->is_number()) fail("'lora_alpha' is missing");
  if (targets == root.end() || !targets->is_array()) fail("'target_modules' is missing");

  LoraConfig config;
  config.rank = rank->get<std::int64_t>();
  config.alpha = alpha->get<double>();
  if (const auto dropout = root.find("lora_dropout"); dropout != root.end() && dropout->is_number()) config.dropout = dropout->get<double>();
  std::set<Projection> wanted;
  for (const nlohmann::json& target : *targets) {
    if (!target.is_string()) fail("'target_modules' holds something else than names");
    wanted.insert(parse_projection(target.get<std::string>()));
  }
  config.targets.assign(wanted.begin(), wanted.end());
  config.first_layer = 0;
  config.last_layer = decoder.layers;
  if (const auto layers = root.find("layers_to_transform"); layers != root.end() && layers->is_array() && !layers->empty()) {
    std::vector<std::int64_t> list;
    for (const nlohmann::json& layer : *layers) {
      if (!layer.is_number_integer()) fail("'layers_to_transform' holds something else than integers");
      list.push_back(layer.get<std::int64_t>());
    }
    std::sort(list.begin(), list.end());
    if (list.front() < 0 || list.back() >= decoder.layers || list.back() - list.front() + 1 != static_cast<std::int64_t>(list.size())) {
      fail("'layers_to_transform' is no contiguous range of the model's layers");
    }
    config.first_layer = list.front();
    config.last_layer = list.back() + 1;
  }
  LoraAdapter adapter(decoder, config, 0, dtype, device, trained);
  const SafetensorsFile file = SafetensorsFile::open(folder / "adapter_model.safetensors");
  std::vector<std::string> complaints;
  std::set<std::string> expected;
  for (const NamedTensor& parameter : adapter.parameters()) {
    expected.insert(parameter.name);
    const TensorInfo* info = file.find_tensor(parameter.name);
    if (info == nullptr) {
      complaints.push_back(parameter.name + " is missing");
    } else if (!(Shape(info->shape) == parameter.tensor.shape())) {
      complaints.push_back(fmt::format("{} is {}, expected {}", parameter.name, Shape(info->shape).text(), parameter.tensor.shape().text()));
    } else {
      std::vector<float> values(static_cast<std::size_t>(info->elements()));
      dequantise_row(info->dtype, info->data, values.data(), info->elements());
      const Shape& shape = parameter.tensor.shape();
      parameter.tensor.copy_from(dtype == DType::f64 ? Tensor::of(std::vector<double>(values.begin(), values.end()), shape) : Tensor::of(values, shape));
    }
  }
  for (const TensorInfo& tensor : file.tensors()) {
    if (!expected.contains(tensor.name)) complaints.push_back(tensor.name + " is not expected");
  }
  if (!complaints.empty()) {
    throw InputError(fmt::format("{}: the adapter does not fit the model: {}", file.path(), fmt::join(complaints, "; ")), "use the adapter with the base model it was trained on");
  }
  return adapter;
}

void save_peft(const std::filesystem::path& folder, const LoraAdapter& adapter, const std::string& base_model, const std::string& base_hash) {
  const LoraConfig& c = adapter.config();
  nlohmann::json config = {{"peft_type", "LORA"}, {"task_type", "CAUSAL_LM"}, {"base_model_name_or_path", base_model}, {"base_model_sha256", base_hash},
                           {"r", c.rank}, {"lora_alpha", c.alpha}, {"lora_dropout", c.dropout}, {"bias", "none"}, {"inference_mode", true}};
  for (const Projection target : c.targets) config["target_modules"].push_back(projection_name(target));
  for (std::int64_t layer = c.first_layer; layer < c.last_layer; ++layer) config["layers_to_transform"].push_back(layer);
  std::vector<Tensor> host;
  std::vector<TensorBytes> tensors;
  for (const NamedTensor& parameter : adapter.parameters()) {
    host.push_back(parameter.tensor.detached().to(cpu_device));
    const Shape& shape = parameter.tensor.shape();
    tensors.push_back({parameter.name, parameter.tensor.dtype(), {shape[0], shape[1]}, host.back().data()});
  }
  std::filesystem::create_directories(folder);
  write_file_atomically(folder / "adapter_model.safetensors", serialise_safetensors(tensors, {{"format", "pt"}}));
  write_file_atomically(folder / "adapter_config.json", config.dump(2) + "\n");
}

}  // namespace expctr
