// DIN, the deep interest network: a user's history is weighed by an attention MLP against the target item.
// Source: Zhou et al. 2018 in FuxiCTR's form (specs/ctr-models.md sections 1, 2); map layer and text adapter: specs/expctr.md sections
// 6, 8.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/ctr/fields.h"
#include "models/ctr/mlp.h"
#include "models/named_tensor.h"

namespace expctr {

struct DinOptions {
  std::vector<CtrField> fields;
  std::int64_t embedding = 32;
  double embedding_deviation = 1e-4;  ///< of the initial normal distribution
  bool map_layer = true;              ///< history position = Linear([item fields; label embedding]) -> width of the item fields
  std::vector<std::int64_t> attention = {32, 16};
  CtrActivation attention_activation = CtrActivation::dice;
  bool softmax = false;
  std::vector<std::int64_t> mlp = {200, 80};
  CtrActivation mlp_activation = CtrActivation::relu;
  double dropout = 0.0;
  bool row_gradients = false;   ///< gradients of the tables by rows (engine/autograd/row_gradient.h)
  bool interest_first = true;   ///< MLP input [interest; target; other fields; a] (KAR), else [all fields; interest; a] (FuxiCTR)
  std::int64_t text_width = 0;  ///< 0: text-free
  std::vector<std::int64_t> adapter = {128, 32};  ///< a = ReLU(W2 ReLU(W1 e + b1) + b2)

  std::int64_t item_width() const;  ///< w = embedding x number of item fields
};

/// Input of one pass. Positions with equal history entries share one entry, so that what depends on the entry alone is computed once.
struct DinBatch {
  std::int64_t rows = 0, history = 0;
  std::vector<FieldIds> fields;          ///< one for each of DinOptions::fields; [rows]
  std::vector<FieldIds> history_fields;  ///< one for each item field; [entries]
  Tensor history_label;                  ///< [entries] i32: 0 padding, 1 disliked, 2 liked; with map layer
  Tensor history_entry;                  ///< [rows * history] i32
  Tensor mask;                           ///< [rows, history], 1 or 0
  Tensor pick,
      pick_one_hot;  ///< with softmax: [rows] i32 a valid position of the row (0 where there is none), and [rows, history] its indicator
  Tensor padding_shift;  ///< with softmax: [rows, history], -1e9 at padding of rows that have a history, else 0
  Tensor sample_ids;     ///< [rows] i32, names of the rows (dropout)
  Tensor text;           ///< [texts, text_width]; may be undefined: no row has a text
  Tensor text_of_row;    ///< [rows] i32 into text; negative: no text, a = 0
};

struct DinOutput {
  Tensor logit;     ///< [rows]
  Tensor weights;   ///< [rows, history]
  Tensor interest;  ///< [rows, w]
  Tensor a;         ///< [rows, adapter.back()], undefined without text adapter
};

class Din {
 public:
  /// Throws UsageError when the options make no model.
  Din(const DinOptions& options, std::uint64_t seed, DType dtype = DType::f32, Device device = {});

  DinOutput forward(const DinBatch& batch, const CtrMode& mode) const;

  const DinOptions& options() const { return options_; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  /// emb.<field>, emb.rate (label embedding), map.*, att.*, adapter.*, mlp.*
  std::vector<NamedTensor> parameters() const;
  /// The parameters that are embedding tables.
  std::vector<NamedTensor> tables() const;
  /// Running statistics of Dice.
  std::vector<NamedTensor> buffers() const;
  /// Parameters and buffers: what makes the model.
  std::vector<NamedTensor> state() const;

 private:
  struct Embedded {
    std::vector<Tensor> fields, history;  ///< one for each field; one for each item field, then the label
  };
  Embedded embed(const DinBatch& batch) const;
  Tensor attention_scores(const Tensor& target, const Tensor& history, const DinBatch& batch, const CtrMode& mode) const;
  Tensor attention_weights(const Tensor& scores, const DinBatch& batch) const;
  Tensor adapt(const DinBatch& batch, const CtrMode& mode) const;
  void check(const DinBatch& batch) const;

  DinOptions options_;
  DType dtype_;
  Device device_;
  std::vector<Tensor> tables_;
  Tensor label_table_;
  Linear map_;
  Mlp attention_, adapter_, mlp_;
};

}  // namespace expctr
