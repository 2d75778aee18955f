#include "models/lora.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "base/error.h"
#include "base/philox.h"
#include "engine/autograd/tape.h"
#include "engine/ops/linear_lora.h"
#include "engine/ops/matmul.h"

namespace expctr {
namespace {

constexpr const char* names[projection_count] = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};

const char* parent(Projection projection) { return projection <= Projection::o ? "self_attn" : "mlp"; }

struct Extents {
  std::int64_t outputs, inputs;
};

Extents extents(const DecoderConfig& c, Projection projection) {
  switch (projection) {
    case Projection::q: return {c.heads * c.head_dim, c.width};
    case Projection::k:
    case Projection::v: return {c.kv_heads * c.head_dim, c.width};
    case Projection::o: return {c.width, c.heads * c.head_dim};
    case Projection::gate:
    case Projection::up: return {c.ffn_width, c.width};
    case Projection::down: return {c.width, c.ffn_width};
  }
  return {0, 0};
}

}  // namespace

const char* projection_name(Projection projection) { return names[static_cast<int>(projection)]; }

Projection parse_projection(const std::string& name) {
  for (int i = 0; i < projection_count; ++i) {
    if (name == names[i]) return static_cast<Projection>(i);
  }
  throw UsageError(fmt::format("lora.targets: unknown projection '{}'", name), fmt::format("one of: {}", fmt::join(names, names + projection_count, ", ")));
}

void parse_layer_range(const std::string& text, std::int64_t layers, std::int64_t& first, std::int64_t& last) {
  const auto number = [](std::string_view digits, std::int64_t& value) {
    const auto [stop, fault] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return fault == std::errc() && stop == digits.data() + digits.size() && value >= 0;
  };
  std::int64_t n = 0, m = 0;
  const std::string_view view = text;
  const std::size_t dash = view.find('-');
  if (view == "all") {
    first = 0;
    last = layers;
    return;
  }
  if (view.starts_with("last ") && number(view.substr(5), n) && n >= 1 && n <= layers) {
    first = layers - n;
    last = layers;
    return;
  }
  if (view.starts_with("first ") && number(view.substr(6), n) && n >= 1 && n <= layers) {
    first = 0;
    last = n;
    return;
  }
  if (dash != std::string_view::npos && number(view.substr(0, dash), n) && number(view.substr(dash + 1), m) && n <= m && m < layers) {
    first = n;
    last = m + 1;
    return;
  }
  throw UsageError(fmt::format("lora.layers: '{}' does not name layers of a model with {}", text, layers), "write all, last N, first N or a-b (counted from 0)");
}

LoraAdapter::LoraAdapter(const DecoderConfig& decoder, const LoraConfig& config, std::uint64_t seed, DType dtype, Device device, bool trained) : config_(config) {
  if (config.rank < 1) throw UsageError(fmt::format("lora.rank is {}", config.rank), "it is at least 1");
  if (config.first_layer < 0 || config.last_layer > decoder.layers || config.first_layer >= config.last_layer) {
    throw UsageError(fmt::format("lora: layers {} to {} of {}", config.first_layer, config.last_layer - 1, decoder.layers), "choose lora.layers within the model");
  }
  const RandomKey key = random_key(seed, "lora");
  for (std::int64_t layer = config.first_layer; layer < config.last_layer; ++layer) {
    for (const Projection target : config.targets) {
      const Extents e = extents(decoder, target);
      std::vector<double> values(static_cast<std::size_t>(config.rank * e.inputs));
      const double bound = 1.0 / std::sqrt(static_cast<double>(e.inputs));
      for (std::size_t i = 0; i < values.size(); ++i) {
        const RandomBits bits = philox(key, {static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(layer), static_cast<std::uint32_t>(target), 0});
        values[i] = bound * (2.0 * uniform_double(bits.word[0], bits.word[1]) - 1.0);
      }
      Slot slot;
      const Shape shape{config.rank, e.inputs};
      slot.a = dtype == DType::f64 ? Tensor::of(values, shape, device) : Tensor::of(std::vector<float>(values.begin(), values.end()), shape, device);
      slot.b = Tensor::zeros({e.outputs, config.rank}, dtype, device);
      if (trained) {
        slot.a.require_gradient();
        slot.b.require_gradient();
      }
      slots_.push_back(slot);
    }
  }
}

bool LoraAdapter::covers(std::int64_t layer, Projection projection) const {
  return layer >= config_.first_layer && layer < config_.last_layer && std::find(config_.targets.begin(), config_.targets.end(), projection) != config_.targets.end();
}

const LoraAdapter::Slot& LoraAdapter::slot(std::int64_t layer, Projection projection) const {
  const auto target = std::find(config_.targets.begin(), config_.targets.end(), projection) - config_.targets.begin();
  return slots_[static_cast<std::size_t>(layer - config_.first_layer) * config_.targets.size() + static_cast<std::size_t>(target)];
}

std::vector<NamedTensor> LoraAdapter::parameters() const {
  std::vector<NamedTensor> result;
  for (std::int64_t layer = config_.first_layer; layer < config_.last_layer; ++layer) {
    for (const Projection target : config_.targets) {
      const std::string stem = fmt::format("base_model.model.model.layers.{}.{}.{}", layer, parent(target), projection_name(target));
      result.push_back({stem + ".lora_A.weight", slot(layer, target).a});
      result.push_back({stem + ".lora_B.weight", slot(layer, target).b});
    }
  }
  return result;
}

void LoraAdapter::freeze() {
  for (Slot& slot : slots_) {
    slot.a = slot.a.detached();
    slot.b = slot.b.detached();
  }
}

Tensor LoraAdapter::delta(std::int64_t layer, Projection projection, const Tensor& x) const {
  const Slot& s = slot(layer, projection);
  return matmul(matmul(x, s.a, false, true), s.b, false, true, config_.scale());
}

Tensor AdapterPlan::apply(const Linear& linear, std::int64_t layer, Projection projection, const Tensor& x) const {
  if (all_ != nullptr && all_->covers(layer, projection)) {
    const double probability = sample_ids_.defined() ? all_->config().dropout : 0.0;
    DropoutKey key = dropout_key_;
    key.channel = static_cast<std::uint32_t>(layer * projection_count + static_cast<std::int64_t>(projection));
    if (linear.is_frozen()) {
      return linear_lora(x, linear.frozen_weight(), linear.bias(), all_->a(layer, projection), all_->b(layer, projection), all_->config().scale(), {},
                         {probability, sample_ids_, key});
    }
    const Tensor input = probability > 0.0 ? dropout(x, sample_ids_, probability, key) : x;
    return add(linear(x), all_->delta(layer, projection, input));
  }
  const Tensor y = linear(x);
  for (const AdapterRows& span : spans_) {
    if (span.adapter == nullptr || span.count == 0 || !span.adapter->covers(layer, projection)) continue;
    if (Tape::recording()) throw Error("several adapters in one batch have no gradient", "train one adapter at a time");
    axpy(1.0, span.adapter->delta(layer, projection, x.slice_rows(span.begin, span.count)), y.slice_rows(span.begin, span.count));
  }
  return y;
}

}  // namespace expctr
