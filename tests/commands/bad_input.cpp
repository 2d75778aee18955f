// Wrong words and damaged files: exit codes, one message, a hint, and nothing on stdout.
#include <doctest/doctest.h>

#include <limits>

#include "tests/commands/program.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/paths.h"

using namespace expctr;

namespace {

void check_refused(const Outcome& outcome, int code) {
  CAPTURE(outcome.errors);
  CHECK(outcome.signal == 0);
  CHECK(outcome.code == code);
  CHECK(outcome.output == "");
  CHECK(outcome.errors.starts_with("error: "));
  CHECK(outcome.errors.find("\nHINT: ") != std::string::npos);
}

std::string write(const std::filesystem::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
  return path.string();
}

}  // namespace

TEST_CASE("damaged model files end every command that reads them with exit code 3") {
  const TemporaryFolder folder;
  GgufWriter whole;
  whole.header(1, 1).string_entry("general.architecture", "llama").tensor("token_embd.weight", {8, 4}, 0, 0).data(128);
  GgufWriter many_tensors, many_entries;
  many_tensors.header(std::uint64_t{1} << 60, 0);
  many_entries.header(0, std::numeric_limits<std::uint64_t>::max());
  const std::vector<std::string> files = {write(folder / "cut_data.gguf", whole.bytes.substr(0, whole.bytes.size() - 64)),
                                          write(folder / "cut_header.gguf", whole.bytes.substr(0, 40)),
                                          write(folder / "four.gguf", "GGUF"),
                                          write(folder / "empty.gguf", ""),
                                          write(folder / "many_tensors.gguf", many_tensors.bytes),
                                          write(folder / "many_entries.gguf", many_entries.bytes),
                                          write(folder / "text.gguf", "this is no model\n")};
  const std::string input = write_json_lines(folder / "in.jsonl", {{{"prompt", "a"}, {"completion", "b"}, {"text", "c"}}});
  for (const std::string& file : files) {
    CAPTURE(file);
    check_refused(run_program(folder.path(), {"inspect", file}), 3);
    check_refused(run_program(folder.path(), {"tokenize", "--model", file, "--text", "a"}), 3);
    check_refused(run_program(folder.path(), {"generate", "--model", file, "--prompt", "a"}), 3);
    check_refused(run_program(folder.path(), {"score", "--model", file, "--input", input}), 3);
    check_refused(run_program(folder.path(), {"embed", "--model", file, "--input", input, "--output", "e.npy"}), 3);
  }
  CHECK(!std::filesystem::exists(folder / "e.npy"));
}

TEST_CASE("inspect refuses damaged safetensors and npy files, folders without a model, and files of other kinds") {
  const TemporaryFolder folder;
  check_refused(
      run_program(folder.path(), {"inspect", write(folder / "a.safetensors", std::string("\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10))}), 3);
  check_refused(run_program(folder.path(), {"inspect", write(folder / "b.safetensors", "1")}), 3);
  check_refused(run_program(folder.path(), {"inspect", write(folder / "c.npy", "\x93NUMPY")}), 3);
  check_refused(run_program(folder.path(), {"inspect", write(folder / "d.bin", "\x1b[31mred")}), 3);
  check_refused(run_program(folder.path(), {"inspect", "."}), 3);
  CHECK(run_program(folder.path(), {"inspect", "d.bin"}).errors.find('\x1b') == std::string::npos);
}

TEST_CASE("wrong words are exit code 2, missing and malformed inputs 3") {
  const TemporaryFolder folder;
  const std::string bad = write(folder / "bad.jsonl", "{\"text\": \"a\"}\n\n{\"text\": }\n");
  const std::string list = write(folder / "list.jsonl", "[1]\n");
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{"generate", "--prompt", "a"},
                                             {"generate", "--model", "no_such_model", "--prompt", "a"},
                                             {"generate", "--model", "smollm2", "--temprature", "1"},
                                             {"generate", "--model", "smollm2", "--prompt", "a", "--top-p", "2"},
                                             {"generate", "--model", "smollm2", "--prompt", "a", "--max-new-tokens", "0"},
                                             {"tokenize", "--text", "a"},
                                             {"embed", "--model", "minilm", "--input", bad},
                                             {"embed", "--model", "minilm", "--input", bad, "--output", "e.npy", "--pooling", "max"},
                                             {"inspect"},
                                             {"data"},
                                             {"data", "fetsh"},
                                             {"data", "fetch", "smolm2"},
                                             {"data", "stats", "--input", "no_such_folder"},
                                             {"bench", "no_such_family"},
                                             {"bench", "--only", "llm/prefil_512"},
                                             {"bench", "--only", "matmul/0x1x1/f32"},
                                             {"bench", "--repeats", "0"}}) {
    CAPTURE(fmt::format("{}", fmt::join(words, " ")));
    check_refused(run_program(folder.path(), words), 2);
  }
  CHECK(run_program(folder.path(), {"generate", "--model", "x", "--temprature", "1"}).errors.find("did you mean '--temperature'?") !=
        std::string::npos);
  CHECK(run_program(folder.path(), {"bench", "--only", "llm/prefil_512"}).errors.find("did you mean 'llm/prefill_512'?") !=
        std::string::npos);

  check_refused(run_program(folder.path(), {"score", "--model", "smollm2", "--input", "no_such_file"}), 3);
  check_refused(run_program(folder.path(), {"score", "--model", "smollm2", "--input", "."}), 3);
  check_refused(run_program(folder.path(), {"score", "--model", "smollm2", "--input", list}), 3);
  const Outcome outcome = run_program(folder.path(), {"score", "--model", "smollm2", "--input", bad});
  check_refused(outcome, 3);
  CHECK(outcome.errors.find("bad.jsonl:3") != std::string::npos);
}

TEST_CASE("an asset that was not fetched is named with the command that fetches it") {
  const TemporaryFolder folder;
  const Outcome outcome =
      run_program(folder.path(), {"tokenize", "--model", "smollm2", "--text", "a"}, {"EXPCTR_MODELS=.", "XDG_CACHE_HOME=.", "HOME=."});
  check_refused(outcome, 3);
  CHECK(outcome.errors.find("expctr_engine data fetch smollm2") != std::string::npos);
}
