// A trained DIN as a safetensors file; its options stand in the metadata as JSON.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "engine/io/checked_json.h"
#include "engine/io/durable_file.h"
#include "engine/io/safetensors.h"
#include "trainers/ctr/train.h"

namespace expctr {
namespace {

using nlohmann::json;
constexpr const char* key = "expctr.din";

json to_json(const DinOptions& o) {
  json fields = json::array();
  for (const CtrField& field : o.fields) fields.push_back({{"name", field.name}, {"rows", field.rows}, {"of_item", field.of_item}});
  return {{"fields", fields},
          {"embedding", o.embedding},
          {"map_layer", o.map_layer},
          {"attention", o.attention},
          {"attention_activation", ctr_activation_name(o.attention_activation)},
          {"softmax", o.softmax},
          {"mlp", o.mlp},
          {"mlp_activation", ctr_activation_name(o.mlp_activation)},
          {"dropout", o.dropout},
          {"interest_first", o.interest_first},
          {"text_width", o.text_width},
          {"adapter", o.adapter}};
}

std::int64_t width_in(const json& value) {
  const auto width = value.get<std::int64_t>();
  if (width < 0 || width > (std::int64_t{1} << 24)) throw InputError(fmt::format("a width of {}", width));
  return width;
}

std::vector<std::int64_t> widths_in(const json& values) {
  std::vector<std::int64_t> result;
  for (const json& value : values) result.push_back(width_in(value));
  return result;
}

DinOptions options_in(const json& j) {
  DinOptions o;
  o.fields.clear();
  for (const json& field : j.at("fields")) o.fields.push_back({field.at("name"), width_in(field.at("rows")), field.at("of_item")});
  o.embedding = width_in(j.at("embedding"));
  o.map_layer = j.at("map_layer");
  o.attention = widths_in(j.at("attention"));
  o.attention_activation = parse_ctr_activation(j.at("attention_activation").get<std::string>());
  o.softmax = j.at("softmax");
  o.mlp = widths_in(j.at("mlp"));
  o.mlp_activation = parse_ctr_activation(j.at("mlp_activation").get<std::string>());
  o.dropout = j.at("dropout");
  o.interest_first = j.at("interest_first");
  o.text_width = width_in(j.at("text_width"));
  o.adapter = widths_in(j.at("adapter"));
  return o;
}

std::vector<std::int64_t> extents(const Shape& shape) {
  std::vector<std::int64_t> result;
  for (int i = 0; i < shape.rank(); ++i) result.push_back(shape[i]);
  return result;
}

}  // namespace

void save_din(const Din& model, const std::filesystem::path& file) {
  std::vector<Tensor> hosts;
  std::vector<TensorBytes> tensors;
  for (const auto& [name, tensor] : model.state()) {
    hosts.push_back(tensor.detached().to(cpu_device));
    tensors.push_back({name, tensor.dtype(), extents(tensor.shape()), hosts.back().data()});
  }
  write_file_atomically(file, serialise_safetensors(tensors, {{key, to_json(model.options()).dump()}}));
}

Din load_din(const std::filesystem::path& file, Device device) {
  const SafetensorsFile tensors = SafetensorsFile::open(file);
  const auto meta = tensors.metadata().find(key);
  if (meta == tensors.metadata().end())
    throw InputError(fmt::format("{}: no DIN model in it", file.string()), "name a model.safetensors that `run ctr` or stage 2 wrote");
  try {
    const Din model(options_in(parse_checked_json(meta->second, file.string(), 8)), 0, DType::f32, device);
    const auto state = model.state();
    if (state.size() != tensors.tensors().size())
      throw InputError(fmt::format("{}: {} tensors, expected {}", file.string(), tensors.tensors().size(), state.size()));
    for (const auto& [name, tensor] : state) {
      const TensorInfo& info = tensors.required_tensor(name);
      if (info.dtype != DType::f32 || info.shape != extents(tensor.shape())) {
        throw InputError(fmt::format("{}: {} is {} [{}], expected f32 {}", file.string(), name, dtype_name(info.dtype),
                                     fmt::join(info.shape, ", "), tensor.shape().text()));
      }
      tensor.copy_from(Tensor::of_bytes({info.data, info.bytes}, tensor.shape(), DType::f32));
    }
    return model;
  } catch (const json::exception& error) {
    throw InputError(fmt::format("{}: the options of the model do not read: {}", file.string(), error.what()));
  } catch (const UsageError& error) {
    throw InputError(fmt::format("{}: {}", file.string(), error.what()));
  }
}

}  // namespace expctr
