// The op table's entries. Sizes: SmolLM2-135M's (576 wide, 9 heads of 64, 49,152 classes) and a click model's; bytes are what must move
// once, FLOPs what the formula needs.
#include <fmt/format.h>

#include "bench/suite/op_entries_recurrent.h"
#include "bench/suite/op_operands.h"
#include "engine/ops/attention.h"
#include "engine/ops/embedding.h"
#include "engine/ops/linear.h"
#include "engine/ops/linear_lora.h"
#include "engine/ops/loss.h"
#include "engine/ops/matmul.h"
#include "engine/ops/norm.h"
#include "engine/ops/optim.h"
#include "engine/ops/reduce.h"
#include "engine/ops/rotary.h"
#include "engine/ops/sampling.h"

namespace expctr {

namespace {

using Operands = std::span<const Tensor>;

constexpr std::int64_t width = 576, vocabulary = 49152, head_dim = 64, heads = 9, kv_heads = 3;

std::int64_t rows_of(const OpPlace& place) { return scaled(place, 8192); }

/// An op on `reads` activations of [rows, width] that gives one like them; backward reads and writes `moves` of them.
OpAtSize on_rows(const OpPlace& place, std::vector<Tensor> operands, double reads, double moves, std::function<Tensor(Operands)> run) {
  const std::int64_t rows = rows_of(place);
  const double bytes = activation_bytes(place) * static_cast<double>(rows * width);
  return {Shape{rows, width}.text(), {(reads + 1) * bytes, 0}, {moves * bytes, 0}, std::move(operands), std::move(run)};
}

Tensor hidden(const OpPlace& place, std::string_view name = "x") { return trained(activation(place, name, {rows_of(place), width})); }

AttentionShape attention_shape() { return {heads, kv_heads, head_dim, true, 0.125}; }

OpAtSize attention_at_size(const OpPlace& place) {
  const std::int64_t length = 1024, sequences = scaled(place, 4), tokens = length * sequences;
  const double token_bytes = activation_bytes(place) * head_dim * (2.0 * heads + 2.0 * kv_heads);
  const double products = 2.0 * heads * head_dim * static_cast<double>(sequences * length * length) / 2;  // one triangle of one product
  return {fmt::format("{} x {} tokens, {} heads", sequences, length, heads),
          {static_cast<double>(tokens) * token_bytes, 2 * products},
          {2.0 * static_cast<double>(tokens) * token_bytes, 5 * products},
          {trained(activation(place, "q", {tokens, heads * head_dim})), trained(activation(place, "k", {tokens, kv_heads * head_dim})),
           trained(activation(place, "v", {tokens, kv_heads * head_dim})), counting(place, sequences + 1, length)},
          [](Operands in) { return attention(in[0], in[1], in[2], in[3], attention_shape()); }};
}

OpAtSize paged_attention_at_size(const OpPlace& place) {
  const std::int64_t sequences = scaled(place, 64), context = 512, pages = context / attention_block;
  const Shape page_shape{sequences * pages, attention_block, kv_heads * head_dim};
  std::vector<std::int32_t> table;
  for (std::int64_t i = 0; i < sequences * pages; ++i) table.push_back(static_cast<std::int32_t>(i));
  return {fmt::format("{} x 1 token after {}", sequences, context),
          {activation_bytes(place) * 2.0 * static_cast<double>(page_shape.size()),
           4.0 * heads * head_dim * static_cast<double>(sequences * context)},
          {},
          {activation(place, "q", {sequences, heads * head_dim}), counting(place, sequences + 1),
           ids(place, std::vector<std::int32_t>(static_cast<std::size_t>(sequences), static_cast<std::int32_t>(context))),
           Tensor::of(table, {sequences, pages}, place.device), activation(place, "key pages", page_shape),
           activation(place, "value pages", page_shape)},
          [](Operands in) { return paged_attention(in[0], in[1], in[2], in[3], in[4], in[5], attention_shape()); }};
}

OpAtSize store_at_size(const OpPlace& place) {
  const std::int64_t tokens = scaled(place, 8192);
  const Shape page_shape{tokens / attention_block, attention_block, kv_heads * head_dim};
  const double bytes = activation_bytes(place) * 4.0 * static_cast<double>(page_shape.size());
  return {
      fmt::format("{} tokens", tokens),
      {bytes, 0},
      {},
      {activation(place, "k", {tokens, kv_heads * head_dim}), activation(place, "v", {tokens, kv_heads * head_dim}),
       counting(place, tokens), Tensor::zeros(page_shape, place.dtype, place.device), Tensor::zeros(page_shape, place.dtype, place.device)},
      [](Operands in) {
        store_keys_values(in[0], in[1], in[2], in[3], in[4]);
        return in[3];
      }};
}

ComputeMode mode_of(const OpPlace& place) { return place.dtype == DType::bf16 ? ComputeMode::bf16 : ComputeMode::f32; }

OpAtSize linear_at_size(const OpPlace& place) {
  const std::int64_t rows = scaled(place, 4096), outputs = 1536;
  const double flops = 2.0 * static_cast<double>(rows * outputs * width);
  const double bytes = activation_bytes(place) * static_cast<double>(rows * (outputs + width) + outputs * width);
  const FrozenWeight weight(activation({place.device, DType::f32, 1}, "w", {outputs, width}), mode_of(place));
  return {fmt::format("{}x{}x{}", rows, outputs, width),
          {bytes, flops},
          {bytes, flops},
          {trained(activation(place, "x", {rows, width}))},
          [weight](Operands in) { return linear_frozen(in[0], weight); }};
}

OpAtSize head_at_size(const OpPlace& place) {
  const std::int64_t rows = scaled(place, 2048), classes = place.scale < 1 ? 1024 : vocabulary;
  const double flops = 2.0 * static_cast<double>(rows * classes * width);
  const double bytes = activation_bytes(place) * static_cast<double>(rows * width + classes * width);
  const FrozenWeight weight(activation({place.device, DType::f32, 1}, "w", {classes, width}), mode_of(place));
  return {fmt::format("{}x{}x{}", rows, classes, width),
          {bytes, flops},
          {bytes, 2 * flops},
          {trained(activation(place, "x", {rows, width})), ids(place, random_ids("targets", rows, classes))},
          [weight](Operands in) { return linear_cross_entropy(in[0], weight, in[1]).log_probability; }};
}

OpAtSize lora_at_size(const OpPlace& place) {
  const std::int64_t rows = scaled(place, 4096), outputs = 1536, rank = 8;
  const double flops = 2.0 * static_cast<double>(rows * (outputs * width + rank * (outputs + width)));
  const double bytes = activation_bytes(place) * static_cast<double>(rows * (outputs + width) + outputs * width);
  const FrozenWeight weight(activation({place.device, DType::f32, 1}, "w", {outputs, width}), mode_of(place));
  return {fmt::format("{}x{}x{} rank {}", rows, outputs, width, rank),
          {bytes, flops},
          {bytes, flops},
          {trained(activation(place, "x", {rows, width})), trained(parameter(place, "a", {rank, width})),
           trained(parameter(place, "b", {outputs, rank}))},
          [weight](Operands in) { return linear_lora(in[0], weight, {}, in[1], in[2], 2.0); }};
}

OpAtSize matmul_at_size(const OpPlace& place) {
  const std::int64_t rows = scaled(place, 4096), outputs = 1536;
  const double flops = 2.0 * static_cast<double>(rows * outputs * width);
  const double bytes = activation_bytes(place) * static_cast<double>(rows * (outputs + width) + outputs * width);
  return {fmt::format("{}x{}x{}", rows, outputs, width),
          {bytes, flops},
          {2 * bytes, 2 * flops},
          {trained(activation(place, "x", {rows, width})), trained(activation(place, "w", {outputs, width}))},
          [](Operands in) { return matmul(in[0], in[1], false, true); }};
}

OpAtSize gather_at_size(const OpPlace& place) {
  const std::int64_t count = scaled(place, 65536), table_rows = 20000, columns = 64;
  const double bytes = 4.0 * static_cast<double>(count * columns);
  return {fmt::format("{} of [{}, {}]", count, table_rows, columns),
          {2 * bytes, 0},
          {2 * bytes, 0},
          {trained(parameter(place, "table", {table_rows, columns})), ids(place, random_ids("ids", count, table_rows))},
          [](Operands in) { return gather(in[0], in[1]); }};
}

OpAtSize cross_entropy_at_size(const OpPlace& place) {
  const std::int64_t rows = scaled(place, 1024), classes = place.scale < 1 ? 1024 : vocabulary;
  const double bytes = activation_bytes(place) * static_cast<double>(rows * classes);
  return {Shape{rows, classes}.text(),
          {bytes, 0},
          {2 * bytes, 0},
          {trained(activation(place, "logits", {rows, classes}, -4, 4)), ids(place, random_ids("targets", rows, classes))},
          [](Operands in) { return log_probability(in[0], in[1]); }};
}

OpAtSize sampling_at_size(const OpPlace& place) {
  const std::int64_t rows = scaled(place, 64), classes = place.scale < 1 ? 1024 : vocabulary;
  return {Shape{rows, classes}.text(),
          {activation_bytes(place) * static_cast<double>(rows * classes), 0},
          {},
          {activation(place, "logits", {rows, classes}, -4, 4), parameter(place, "u", {rows}, 0, 1)},
          [](Operands in) { return sample_tokens(in[0], in[1], {.temperature = 0.8, .top_k = 50, .top_p = 0.95}).log_probability; }};
}

constexpr std::int64_t per_row = 1 << 20;

/// A loss a row on `count` vectors of [n].
OpAtSize loss_at_size(const OpPlace& place, int count, std::function<Tensor(Operands)> run) {
  const std::int64_t n = scaled(place, per_row);
  std::vector<Tensor> operands = {trained(parameter(place, "first", {n}))};
  for (int i = 1; i < count; ++i) operands.push_back(parameter(place, fmt::format("operand {}", i), {n}));
  const double bytes = 4.0 * static_cast<double>(n);
  return {Shape{n}.text(), {(count + 1) * bytes, 0}, {(count + 2) * bytes, 0}, std::move(operands), std::move(run)};
}

OpAtSize adamw_at_size(const OpPlace& place) {
  const std::int64_t n = scaled(place, 10000000);
  return {Shape{n}.text(),
          {7.0 * 4 * static_cast<double>(n), 0},
          {},
          {parameter(place, "p", {n}), parameter(place, "g", {n}), Tensor::zeros({n}, parameter(place, "m", {1}).dtype(), place.device),
           Tensor::zeros({n}, parameter(place, "v", {1}).dtype(), place.device)},
          [](Operands in) {
            const AdamSlot slot{in[0], in[1], in[2], in[3]};
            adamw_update(std::span(&slot, 1), {1e-3, 0.9, 0.999, 1e-8, 0.01}, 1);
            return in[0];
          }};
}

OpAtSize sampled_dropout(const OpPlace& place) {
  return on_rows(place, {hidden(place), counting(place, rows_of(place))}, 1, 3, [](Operands in) {
    return dropout(in[0], in[1], 0.1, {7, 3, 1});
  });
}

OpAtSize segment_mean_at_size(const OpPlace& place) {
  const std::int64_t rows = rows_of(place), per_segment = 32;
  OpAtSize op = on_rows(place, {hidden(place), counting(place, rows / per_segment + 1, per_segment)}, 0, 2,
                        [](Operands in) { return segment_mean(in[0], in[1]); });
  return op;
}

OpAtSize global_norm_at_size(const OpPlace& place) {
  return on_rows(place, {hidden(place).detached()}, 0, 0, [](Operands in) {
    const double norm = global_norm(in);
    return Tensor::of(std::vector<float>{static_cast<float>(norm)}, {1}, in[0].device());
  });
}

OpAtSize rotary_at_size(const OpPlace& place) {
  const std::int64_t tokens = rows_of(place), positions = 2048;
  std::vector<std::int32_t> at;
  for (std::int64_t t = 0; t < tokens; ++t) at.push_back(static_cast<std::int32_t>(t % positions));
  return on_rows(place, {hidden(place), ids(place, at), parameter(place, "table", {positions, head_dim})}, 1, 3,
                 [](Operands in) { return rotary(in[0], in[1], in[2]); });
}

}  // namespace

std::vector<OpEntry> op_table() {
  std::vector<OpEntry> table;
  const auto add = [&](const char* op, std::function<OpAtSize(const OpPlace&)> prepare) -> OpEntry& {
    return table.emplace_back(OpEntry{op, std::move(prepare)});
  };
  add("unary", [](const OpPlace& p) { return on_rows(p, {hidden(p)}, 1, 3, [](Operands in) { return gelu(in[0]); }); });
  add("binary", [](const OpPlace& p) {
    return on_rows(p, {hidden(p), hidden(p, "y")}, 2, 6, [](Operands in) { return multiply(in[0], in[1]); });
  });
  add("where", [](const OpPlace& p) {
    const Tensor mask = binary(Binary::greater, hidden(p).detached(), hidden(p, "y").detached());
    return on_rows(p, {mask, hidden(p), hidden(p, "y")}, 3, 8, [](Operands in) { return where(in[0], in[1], in[2]); });
  });
  add("affine", [](const OpPlace& p) { return on_rows(p, {hidden(p)}, 1, 3, [](Operands in) { return affine(in[0], 3.0, 1.0); }); });
  add("swiglu", [](const OpPlace& p) {
    return on_rows(p, {hidden(p), hidden(p, "up")}, 2, 7, [](Operands in) { return swiglu(in[0], in[1]); });
  });
  add("dropout", sampled_dropout);
  add("convert", [](const OpPlace& p) {
    return on_rows(p, {hidden(p).detached()}, 1, 0,
                   [](Operands in) { return convert(in[0], in[0].dtype() == DType::f32 ? DType::bf16 : DType::f32); });
  }).float64 = false;
  add("axpy", [](const OpPlace& p) {
    return on_rows(p, {hidden(p).detached(), Tensor::zeros({rows_of(p), width}, p.dtype, p.device)}, 2, 0, [](Operands in) {
      axpy(0.5, in[0], in[1]);
      return in[1];
    });
  });
  add("sum", [](const OpPlace& p) { return on_rows(p, {hidden(p)}, 0, 2, [](Operands in) { return sum(in[0], 0); }); });
  add("segment_mean", segment_mean_at_size);
  add("global_norm", global_norm_at_size);
  add("rms_norm", [](const OpPlace& p) {
    return on_rows(p, {hidden(p), trained(parameter(p, "gain", {width}, 0.5, 1.5))}, 1, 4,
                   [](Operands in) { return rms_norm(in[0], in[1], 1e-5); });
  });
  add("layer_norm", [](const OpPlace& p) {
    return on_rows(p, {hidden(p), trained(parameter(p, "gain", {width}, 0.5, 1.5)), trained(parameter(p, "bias", {width}))}, 1, 4,
                   [](Operands in) { return layer_norm(in[0], in[1], in[2], 1e-5); });
  });
  add("dice", [](const OpPlace& p) {
    return on_rows(
        p, {hidden(p), trained(parameter(p, "alpha", {width})), parameter(p, "mean", {width}), parameter(p, "variance", {width}, 0.5, 1.5)},
        2, 5, [](Operands in) { return dice(in[0], in[1], in[2].clone(), in[3].clone(), true); });
  });
  add("matmul", matmul_at_size);
  add("linear_frozen", linear_at_size).float64 = false;
  add("linear_cross_entropy", head_at_size).float64 = false;
  add("linear_lora", lora_at_size).float64 = false;
  add("attention", attention_at_size).float64 = false;
  add("paged_attention", paged_attention_at_size).float64 = false;
  add("store_keys_values", store_at_size).float64 = false;
  add("rotary", rotary_at_size);
  add("gather", gather_at_size).bf16 = false;
  add("concat_columns", [](const OpPlace& p) {
    return on_rows(p, {hidden(p), hidden(p, "y")}, 3, 6, [](Operands in) { return concat_columns({in[0], in[1]}); });
  });
  add("slice_columns",
      [](const OpPlace& p) { return on_rows(p, {hidden(p)}, 0, 1.5, [](Operands in) { return slice_columns(in[0], 64, width / 2); }); });
  add("log_probability", cross_entropy_at_size);
  add("bce_with_logits", [](const OpPlace& p) {
    return loss_at_size(p, 2, [](Operands in) { return bce_with_logits(in[0], in[1]); });
  }).bf16 = false;
  add("policy_loss", [](const OpPlace& p) {
    return loss_at_size(p, 3, [](Operands in) { return policy_loss(in[0], in[1], in[2], 0.2).loss; });
  }).bf16 = false;
  add("value_loss", [](const OpPlace& p) {
    return loss_at_size(p, 3, [](Operands in) { return value_loss(in[0], in[1], in[2], 0.2); });
  }).bf16 = false;
  add("sample_tokens", sampling_at_size).float64 = false;
  add("adamw_update", adamw_at_size).bf16 = false;
  add("advance_step", [](const OpPlace& p) {
    return OpAtSize{"[3]", {32, 0}, {}, {activation(p, "gradient", {1})}, [](Operands in) {
                      const Tensor control = step_control(1e-3, 0, in[0].device());
                      advance_step(control, squared_norm(in.first(1)), 0.25);
                      return convert(control, DType::f32);
                    }};
  });
  for (OpEntry& entry : table_op_entries()) table.push_back(std::move(entry));
  add_recurrent_entries(table);
  return table;
}

}  // namespace expctr
