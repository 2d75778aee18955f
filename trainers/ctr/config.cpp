#include "trainers/ctr/config.h"

#include <algorithm>

namespace expctr {
namespace {

bool all_positive(const std::vector<std::int64_t>& sizes) {
  return !sizes.empty() && std::ranges::all_of(sizes, [](std::int64_t size) { return size > 0; });
}

}  // namespace

CtrConfig read_ctr_config(ConfigReader root) {
  CtrConfig c;
  c.adapter = root.get("adapter", c.adapter);
  root.require("adapter", all_positive(c.adapter), "must be a list of widths > 0");
  ConfigReader data = root.section("data");
  c.history = data.get("history.max", c.history);
  data.require("history.max", c.history >= 1 && c.history <= 1000, "must lie in 1 .. 1000");
  c.min_count = data.get("min_count", c.min_count);
  data.require("min_count", c.min_count >= 1, "must be >= 1");
  ConfigReader reader = root.section("ctr");
  c.model = reader.choice("model", c.model, {"din"});
  c.conventions = reader.choice("conventions", c.conventions, {"kar", "fuxictr"});
  c.embedding = reader.get("embedding", c.embedding);
  reader.require("embedding", c.embedding > 0, "must be > 0");
  c.embedding_deviation = reader.get("embedding_deviation", c.embedding_deviation);
  reader.require("embedding_deviation", c.embedding_deviation > 0, "must be > 0");
  c.attention = reader.get("attention", c.attention);
  reader.require("attention", all_positive(c.attention), "must be a list of widths > 0");
  c.attention_activation = reader.choice("attention_activation", c.attention_activation, {"dice", "relu"});
  c.softmax = reader.get("softmax", c.softmax);
  c.mlp = reader.get("mlp", c.mlp);
  reader.require("mlp", all_positive(c.mlp), "must be a list of widths > 0");
  c.mlp_activation = reader.choice("mlp_activation", c.mlp_activation, {"relu", "dice"});
  c.dropout = reader.get("dropout", c.dropout);
  reader.require("dropout", c.dropout >= 0 && c.dropout < 1, "must be in [0, 1)");
  c.embedding_regularizer = reader.get("embedding_regularizer", c.embedding_regularizer);
  reader.require("embedding_regularizer", c.embedding_regularizer >= 0, "must be >= 0");
  c.net_regularizer = reader.get("net_regularizer", c.net_regularizer);
  reader.require("net_regularizer", c.net_regularizer >= 0, "must be >= 0");
  c.sparse = reader.get("sparse", c.sparse);
  reader.require("sparse", !c.sparse || c.embedding_regularizer == 0,
                 "leaves out the rows that a batch does not read, which embedding_regularizer moves: set that to 0");
  c.lr = reader.get("lr", c.lr);
  reader.require("lr", c.lr > 0, "must be > 0");
  c.weight_decay = reader.get("weight_decay", c.weight_decay);
  reader.require("weight_decay", c.weight_decay >= 0, "must be >= 0");
  c.schedule = reader.choice("schedule", c.schedule, {"constant", "cosine", "linear", "inverse_square_root"});
  c.warm_up = reader.get("warm_up", c.warm_up);
  reader.require("warm_up", c.warm_up >= 0, "must be >= 0");
  c.clip = reader.get("clip", c.clip);
  reader.require("clip", c.clip >= 0, "must be >= 0; 0 switches clipping off");
  c.batch = reader.get("batch", c.batch);
  reader.require("batch", c.batch > 0, "must be > 0");
  c.epochs = reader.get("epochs", c.epochs);
  reader.require("epochs", c.epochs > 0, "must be > 0");
  c.patience = reader.get("patience", c.patience);
  reader.require("patience", c.patience > 0, "must be > 0");
  c.checkpoint_every = reader.get("checkpoint_every", c.checkpoint_every);
  reader.require("checkpoint_every", c.checkpoint_every >= 0, "must be >= 0");
  return c;
}

DinOptions din_options(const CtrConfig& config, const std::vector<CtrField>& fields, std::int64_t text_width) {
  DinOptions options;
  options.fields = fields;
  options.embedding = config.embedding;
  options.embedding_deviation = config.embedding_deviation;
  options.map_layer = config.conventions == "kar";
  options.interest_first = config.conventions == "kar";
  options.attention = config.attention;
  options.attention_activation = parse_ctr_activation(config.attention_activation);
  options.softmax = config.softmax;
  options.mlp = config.mlp;
  options.mlp_activation = parse_ctr_activation(config.mlp_activation);
  options.dropout = config.dropout;
  options.row_gradients = true;
  options.text_width = text_width;
  options.adapter = config.adapter;
  return options;
}

std::vector<AdamRule> adam_rules(const CtrConfig& config, std::size_t tables, std::size_t parameters) {
  std::vector<AdamRule> rules(parameters, {config.net_regularizer, false});
  std::fill_n(rules.begin(), tables, config.sparse ? AdamRule{0.0, true} : AdamRule{config.embedding_regularizer, false});
  return rules;
}

CtrDataConfig read_ctr_data_config(ConfigReader reader) {
  CtrDataConfig c;
  c.path = reader.get("path", c.path);
  c.label_rule = reader.get("label_rule", c.label_rule);
  ConfigReader split = reader.section("split");
  split.choice("kind", "per_user_time", {"per_user_time"});
  c.split.test = split.get("test", c.split.test);
  c.split.valid = split.get("valid", c.split.valid);
  split.require("test", c.split.test >= 0 && c.split.valid >= 0 && c.split.test + c.split.valid < 1,
                "and data.split.valid must be >= 0 and sum to less than 1");
  c.scope = parse_history_scope(reader.choice("history.scope", "all_earlier", {"all_earlier", "train_only"}));
  return c;
}

}  // namespace expctr
