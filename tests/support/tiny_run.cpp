#include "tests/support/tiny_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>

#include "base/hash.h"
#include "engine/io/durable_file.h"
#include "engine/io/safetensors.h"

namespace expctr {
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr std::int64_t end_token = 2;  // <|im_end|>

/// Random numbers that are the same on every machine.
class Numbers {
 public:
  explicit Numbers(std::uint64_t seed) : seed_(splitmix64(seed)) {}
  double uniform() { return static_cast<double>(splitmix64(seed_ + ++count_) >> 11) * 0x1p-53; }
  std::int64_t below(std::int64_t n) { return static_cast<std::int64_t>(uniform() * static_cast<double>(n)); }
  /// Bell-shaped with variance 1: a sum of twelve.
  double bell() {
    double sum = -6.0;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }

 private:
  std::uint64_t seed_, count_ = 0;
};

/// Named tensors of random values that live until they are written.
class Weights {
 public:
  explicit Weights(std::uint64_t seed) : numbers_(seed) {}
  void add(const std::string& name, std::vector<std::int64_t> shape, double deviation, double mean = 0.0) {
    std::size_t size = 1;
    for (const std::int64_t extent : shape) size *= static_cast<std::size_t>(extent);
    std::vector<float> values(size);
    for (float& value : values) value = static_cast<float>(mean + deviation * numbers_.bell());
    tensors_.push_back({name, std::move(shape), std::move(values)});
  }
  /// Row `row` of the tensor added last, times `factor`.
  void scale_row(std::int64_t row, float factor) {
    const auto width = static_cast<std::ptrdiff_t>(tensors_.back().shape.back());
    const auto begin = tensors_.back().values.begin() + row * width;
    std::for_each(begin, begin + width, [&](float& value) { value *= factor; });
  }
  void write(const fs::path& file) const {
    std::vector<TensorBytes> list;
    for (const Entry& entry : tensors_) list.push_back({entry.name, DType::f32, entry.shape, entry.values.data()});
    write_file_atomically(file, serialise_safetensors(list));
  }

 private:
  struct Entry {
    std::string name;
    std::vector<std::int64_t> shape;
    std::vector<float> values;
  };
  Numbers numbers_;
  std::vector<Entry> tensors_;
};

/// How a byte-level vocabulary spells a byte: printable ones as themselves, the others as U+0100 and up.
std::array<std::string, 256> byte_spellings() {
  std::array<std::string, 256> spelling;
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const int code = printable ? byte : next++;
    auto& text = spelling[static_cast<std::size_t>(byte)];
    if (code < 128) {
      text = std::string(1, static_cast<char>(code));
    } else {
      text = {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 63))};
    }
  }
  return spelling;
}

/// tokenizer.json of a byte-level BPE; returns the number of tokens.
std::int64_t write_byte_level_tokenizer(const fs::path& folder) {
  const std::array<std::string, 256> spelling = byte_spellings();
  json vocabulary = json::object(), merges = json::array(), added = json::array();
  std::int64_t next = 0;
  for (const char* special : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) {
    added.push_back({{"id", next},
                     {"content", special},
                     {"special", true},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"single_word", false}});
    vocabulary[special] = next++;
  }
  for (const std::string& text : spelling) vocabulary[text] = next++;
  // Each word grows from its left end, letter by letter.
  for (const char* word : {"Yes",    "No",        "system", "user",   "assistant", " customer", " liked", " disliked", " the", " this",
                           " would", " probably", " feel",  " about", " sentence", " Answer",   " movie", " one",      " and", " why"}) {
    std::string left;
    for (const char* c = word; *c != '\0'; ++c) {
      const std::string& right = spelling[static_cast<unsigned char>(*c)];
      if (!left.empty() && !vocabulary.contains(left + right)) {
        merges.push_back(left + " " + right);
        vocabulary[left + right] = next++;
      }
      left += right;
    }
  }
  const json document = {
      {"version", "1.0"},
      {"added_tokens", added},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", merges}}}};
  write_file_atomically(folder / "tokenizer.json", document.dump() + "\n");
  const std::string chat =
      "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
      "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
      "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
  const json config = {{"bos_token", "<|im_start|>"},
                       {"eos_token", "<|im_end|>"},
                       {"unk_token", "<|endoftext|>"},
                       {"pad_token", "<|im_end|>"},
                       {"chat_template", chat}};
  write_file_atomically(folder / "tokenizer_config.json", config.dump() + "\n");
  return next;
}

void write_model(const fs::path& folder) {
  make_folders(folder);
  const std::int64_t vocabulary = write_byte_level_tokenizer(folder), width = 32, layers = 4, kv_width = 16, ffn = 64;
  const json config = {
      {"model_type", "llama"},    {"hidden_size", width},     {"num_hidden_layers", layers}, {"num_attention_heads", 4},
      {"num_key_value_heads", 2}, {"intermediate_size", ffn}, {"vocab_size", vocabulary},    {"max_position_embeddings", 1024},
      {"rms_norm_eps", 1e-5},     {"rope_theta", 10000.0},    {"hidden_act", "silu"},        {"tie_word_embeddings", true},
      {"torch_dtype", "float32"}};
  write_file_atomically(folder / "config.json", config.dump(2) + "\n");
  Weights weights(1);
  // Matrices larger than a trained model's, so that what is written depends on the prompt.
  weights.add("model.embed_tokens.weight", {vocabulary, width}, 0.5);
  weights.scale_row(end_token, 2.0f);  // so that some texts end before they are cut
  weights.add("model.norm.weight", {width}, 0.02, 0.4);
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    const std::string block = fmt::format("model.layers.{}.", layer);
    weights.add(block + "input_layernorm.weight", {width}, 0.05, 1.0);
    weights.add(block + "post_attention_layernorm.weight", {width}, 0.05, 1.0);
    weights.add(block + "self_attn.q_proj.weight", {width, width}, 0.3);
    weights.add(block + "self_attn.k_proj.weight", {kv_width, width}, 0.3);
    weights.add(block + "self_attn.v_proj.weight", {kv_width, width}, 0.3);
    weights.add(block + "self_attn.o_proj.weight", {width, width}, 0.3);
    weights.add(block + "mlp.gate_proj.weight", {ffn, width}, 0.3);
    weights.add(block + "mlp.up_proj.weight", {ffn, width}, 0.3);
    weights.add(block + "mlp.down_proj.weight", {width, ffn}, 0.3);
  }
  weights.write(folder / "model.safetensors");
}

void write_encoder(const fs::path& folder) {
  make_folders(folder);
  json vocabulary = json::object(), added = json::array();
  std::int64_t next = 0;
  for (const char* special : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) {
    added.push_back({{"id", next}, {"content", special}, {"special", true}});
    vocabulary[special] = next++;
  }
  for (char c = 33; c < 127; ++c) {
    if (c >= 'A' && c <= 'Z') continue;
    vocabulary[std::string(1, c)] = next++;
    if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) vocabulary[std::string("##") + c] = next++;
  }
  const json document = {
      {"version", "1.0"},
      {"added_tokens", added},
      {"normalizer",
       {{"type", "BertNormalizer"}, {"clean_text", true}, {"handle_chinese_chars", true}, {"strip_accents", nullptr}, {"lowercase", true}}},
      {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
      {"post_processor", {{"type", "BertProcessing"}, {"sep", {"[SEP]", vocabulary["[SEP]"]}}, {"cls", {"[CLS]", vocabulary["[CLS]"]}}}},
      {"decoder", {{"type", "WordPiece"}, {"prefix", "##"}}},
      {"model",
       {{"type", "WordPiece"},
        {"unk_token", "[UNK]"},
        {"continuing_subword_prefix", "##"},
        {"max_input_chars_per_word", 100},
        {"vocab", vocabulary}}}};
  write_file_atomically(folder / "tokenizer.json", document.dump() + "\n");
  const std::int64_t width = 32, intermediate = 64, positions = 64;
  const json config = {{"model_type", "bert"},
                       {"hidden_act", "gelu"},
                       {"hidden_size", width},
                       {"num_hidden_layers", 2},
                       {"num_attention_heads", 4},
                       {"intermediate_size", intermediate},
                       {"max_position_embeddings", positions},
                       {"type_vocab_size", 2},
                       {"vocab_size", next},
                       {"layer_norm_eps", 1e-12}};
  write_file_atomically(folder / "config.json", config.dump(2) + "\n");
  Weights weights(2);
  const auto linear = [&](const std::string& name, std::int64_t outputs, std::int64_t inputs) {
    weights.add(name + ".weight", {outputs, inputs}, 0.2);
    weights.add(name + ".bias", {outputs}, 0.05);
  };
  const auto norm = [&](const std::string& name) {
    weights.add(name + ".weight", {width}, 0.05, 1.0);
    weights.add(name + ".bias", {width}, 0.05);
  };
  weights.add("embeddings.word_embeddings.weight", {next, width}, 0.5);
  weights.add("embeddings.position_embeddings.weight", {positions, width}, 0.2);
  weights.add("embeddings.token_type_embeddings.weight", {2, width}, 0.2);
  norm("embeddings.LayerNorm");
  for (int layer = 0; layer < 2; ++layer) {
    const std::string block = fmt::format("encoder.layer.{}.", layer);
    for (const char* part : {"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"})
      linear(block + part, width, width);
    norm(block + "attention.output.LayerNorm");
    linear(block + "intermediate.dense", intermediate, width);
    linear(block + "output.dense", width, intermediate);
    norm(block + "output.LayerNorm");
  }
  weights.write(folder / "model.safetensors");
}

void write_data(const fs::path& folder) {
  make_folders(folder);
  constexpr int users = 60, items = 40, ratings = 15;
  const std::array<const char*, 5> genres = {"Action", "Comedy", "Drama", "Horror", "Romance"};
  const std::array<const char*, 8> first = {"Red", "Lost", "Silent", "Golden", "Last", "Broken", "Hidden", "Wild"},
                                   second = {"River", "Night", "Garden", "Road", "Island", "Winter", "Letter", "Train"};
  Numbers numbers(3);
  std::string table = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n";
  for (int item = 1; item <= items; ++item) {
    table += fmt::format("{}\t{} {}\t{}\t{}", item, first[static_cast<std::size_t>(item % 8)],
                         second[static_cast<std::size_t>(item / 8 % 8)], 1980 + item % 18, genres[static_cast<std::size_t>(item % 5)]);
    table += item % 3 == 0 ? fmt::format(" {}\n", genres[static_cast<std::size_t>((item + 2) % 5)]) : "\n";
  }
  write_file_atomically(folder / "tiny.item", table);
  std::string people = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n";
  std::string rows = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n";
  for (int user = 1; user <= users; ++user) {
    people += fmt::format("{}\t{}\t{}\t{}\t{:05}\n", user, 18 + numbers.below(50), user % 2 == 0 ? "F" : "M",
                          user % 3 == 0 ? "student" : "artist", 10000 + user);
    std::vector<int> order(items);
    for (int i = 0; i < items; ++i) order[static_cast<std::size_t>(i)] = i + 1;
    std::int64_t time = 880000000 + numbers.below(1000000);
    for (int n = 0; n < ratings; ++n) {
      std::swap(order[static_cast<std::size_t>(n)], order[static_cast<std::size_t>(n + numbers.below(items - n))]);
      const int item = order[static_cast<std::size_t>(n)];
      // A user has a taste for two genres, mostly.
      const bool liked = (item % 5 == user % 5 || item % 5 == (user + 1) % 5) != (numbers.uniform() < 0.2);
      rows += fmt::format("{}\t{}\t{}\t{}\n", user, item, liked ? 4 + numbers.below(2) : 1 + numbers.below(3), time);
      if (n % 4 != 3) time += 100 + numbers.below(10000);
    }
  }
  write_file_atomically(folder / "tiny.user", people);
  write_file_atomically(folder / "tiny.inter", rows);
}

constexpr const char* settings = R"(system: expctr
seed: 7
data:
  path: {data}
  label_rule: "rating >= 4"
  split: {{kind: per_user_time, test: 0.2, valid: 0.1}}
  history: {{max: 8, scope: all_earlier}}
llm: {{path: {model}, compute: f32}}
lora: {{rank: 4, alpha: 8, dropout: 0.05, targets: [q_proj, v_proj], layers: last 2}}
prompt: {{domain: movie, max_liked: 2, max_disliked: 2, max_tokens: 512, item_fields: [title, genres]}}
folds: {{k: 2, by: user, scorer_share: 0.2}}
pairs: {{train: 24, valid: 12, test: 20, sft: 16}}
scorer: {{type: sft}}
sft: {{lr: 1.0e-2, batch: 8, epochs: 2, patience: 10, evaluations_per_epoch: 1}}
ppo:
  lr: 1.0e-2
  batch: 4
  mini_batch: 2
  epochs: 2
  steps: 3
  max_new_tokens: 8
reward:
  lc: {{form: delta, clip: 5}}
  ic: {{form: prob, weight: 1}}
encoder: {{model: {encoder}, pooling: mean, max_tokens: 48}}
adapter: [8, 4]
ctr: {{model: din, conventions: kar, embedding: 4, attention: [8], mlp: [16], lr: 1.0e-2, batch: 256, epochs: 3, patience: 3}}
stage2: {{rows: all}}
explain: {{decode: greedy, batch: 4}}
stage3: {{refresh: eval}}
cache: {{prefix_bytes: 4194304}}
checkpoint: {{every: 1}}
)";

}  // namespace

std::vector<std::string> TinyRun::command(const std::string& job, const fs::path& out, const std::vector<std::string>& more) const {
  std::vector<std::string> words = {"run", job, "--config", config().string(), "--out", out.string()};
  words.insert(words.end(), more.begin(), more.end());
  if (std::find(more.begin(), more.end(), "--threads") == more.end()) words.insert(words.end(), {"--threads", "1"});
  return words;
}

TinyRun write_tiny_run(const fs::path& folder) {
  const TinyRun run{folder};
  write_model(run.model());
  write_encoder(run.encoder());
  write_data(run.data());
  write_file_atomically(run.config(), fmt::format(fmt::runtime(settings), fmt::arg("data", run.data().string()),
                                                  fmt::arg("model", run.model().string()), fmt::arg("encoder", run.encoder().string())));
  return run;
}

}  // namespace expctr
