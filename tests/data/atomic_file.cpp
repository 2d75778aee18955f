#include "data/atomic_file.h"

#include <zlib.h>

#include "data/interactions.h"
#include "data/movielens.h"
#include "tests/data/support.h"

using namespace expctr;

namespace {

const std::string good = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n";

std::string read_error(const std::string& text) {
  return input_error([&] {
    AtomicReader reader("f.inter", pieces(text, text.size() + 1));
    read_interactions(reader, {});
  });
}

std::string gzipped(const std::string& text) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string packed(text.size() + 200, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

}  // namespace

TEST_CASE("atomic files: however the source is cut, the same records come out") {
  const std::string text = "\xEF\xBB\xBFitem_id:token\ttitle:token_seq\tscore:float\r\n1\tAm\xC3\xA9lie (2001)\t4.5\r\n\r\n2\tb  c\t-1e3";
  for (std::size_t piece = 1; piece <= text.size(); ++piece) {
    AtomicReader reader("f.item", pieces(text, piece));
    REQUIRE(reader.columns().size() == 3);
    CHECK(reader.columns()[0].declared() == "item_id:token");
    REQUIRE(reader.next());
    CHECK(reader.line() == 2);
    CHECK(reader.text(1) == "Am\xC3\xA9lie (2001)");
    CHECK(reader.number(2) == 4.5);
    REQUIRE(reader.next());
    CHECK(reader.line() == 4);
    CHECK(reader.sequence(1) == std::vector<std::string>{"b", "c"});
    CHECK(reader.number(2) == -1000);
    CHECK_FALSE(reader.next());
  }
}

TEST_CASE("atomic files: faults name file, line and column and say what to do") {
  CHECK(contains(read_error(""), "f.inter: the file is empty"));
  CHECK(contains(read_error(good), "0 rows"));
  CHECK(contains(read_error("user_id\titem_id\n"), "f.inter, line 1, column 1: `user_id` has no type\nHINT: write `user_id:token`"));
  CHECK(contains(read_error("user_id:token\titem_id:tokn\n"),
                 "line 1, column 2: unknown type `tokn`; legal: token, token_seq, float, float_seq"));
  CHECK(contains(read_error("user_id:token\titem_id:tokn\n"), "did you mean `item_id:token`?"));
  CHECK(contains(read_error("a:token\ta:float\n"), "line 1, column 2: column `a` is already there"));
  CHECK(contains(
      read_error("user_id:token\titem_id:token\trating:float\n1\t2\t3\n"),
      "f.inter, line 1: no column 'timestamp:float' among user_id:token, item_id:token, rating:float\nHINT: this job splits by time; name "
      "the column with data.columns.time"));
  CHECK(contains(read_error(good + "1\t2\t3\t4\n1\t2\t3\n"), "line 3: 3 fields, expected 4"));
  CHECK(contains(read_error(good + "1\t2\t3\t4\t5\n"), "line 2: 5 fields, expected 4"));
  CHECK(contains(read_error(good + "1\t2\t4,5\t4\n"), "line 2, column 3 (rating): `4,5` is not a number"));
  CHECK(contains(read_error(good + "1\t2\t\t4\n"), "line 2, column 3 (rating): `` is not a number"));
  CHECK(contains(read_error(good + "1\t2\t3\tNaN\n"), "line 2, column 4 (timestamp): `NaN` is not a finite number"));
  CHECK(contains(read_error(good + "1\t2\tinf\t4\n"), "line 2, column 3 (rating): `inf` is not a finite number"));
  CHECK(contains(read_error(good + "1\t2\t1e999\t4\n"), "is not a finite number"));
  CHECK(contains(read_error(good + "1\t2\t1e300\t4\n"), "too large for a rating"));
  CHECK(contains(read_error(good + "1\t\t3\t4\n"), "line 2, column 2 (item_id): empty id"));
  CHECK(contains(read_error(good + std::string("1\t3\0"
                                               "4\t3\t4\n",
                                               9)),
                 "line 2, column 2, byte offset 60: NUL byte"));
  CHECK(contains(read_error(good + "1\t\xC3(\t3\t4\n"), "line 2, column 2, byte offset 59: invalid UTF-8"));
  CHECK(contains(read_error("\xFF\xFEu\0"), "the file is UTF-16"));
  CHECK(contains(input_error([] { AtomicReader(std::filesystem::path("no/such/file")); }), "cannot open"));
  CHECK(contains(input_error([] { AtomicReader(std::filesystem::temp_directory_path()); }), "is a directory"));
}

TEST_CASE("atomic files: a line without end is refused in bounded memory") {
  LineReader lines(
      "long",
      [](char* buffer, std::size_t size) {
        std::memset(buffer, 'x', size);
        return size;
      },
      1 << 20);
  Line line;
  CHECK(contains(input_error([&] { lines.next(line); }), "long, line 1: longer than 1048576 bytes"));
}

TEST_CASE("atomic files: whatever bytes are changed, the reader answers with rows or an InputError") {
  const std::string text = good + "196\t242\t3\t881250949\n186\t302\t4.5\t891717742\r\n\n22\t377\t1\t878887116\n";
  int read = 0, refused = 0;
  const auto attempt = [&](const std::string& bytes) {
    if (read_error(bytes).empty())
      ++read;
    else
      ++refused;
  };
  for (std::size_t at = 0; at < text.size(); ++at) {
    attempt(text.substr(0, at));
    for (const char byte : {'\0', '\t', '\n', '\r', ':', '9', '-', 'e', '\xC3', '\xFF'}) {
      std::string bad = text;
      bad[at] = byte;
      attempt(bad);
    }
  }
  CHECK(read > 50);
  CHECK(refused > 500);
}

TEST_CASE("UTF-8 is checked to the letter") {
  for (const char* text : {"", "abc", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "\xED\x9F\xBF", "\xF4\x8F\xBF\xBF"})
    CHECK_FALSE(first_invalid_utf8(text).has_value());
  for (const char* text : {"ab\x80", "ab\xC0\x80", "ab\xC1\xBF", "ab\xC3", "ab\xE0\x80\x80", "ab\xED\xA0\x80", "ab\xF0\x80\x80\x80",
                           "ab\xF4\x90\x80\x80", "ab\xF5\x80\x80\x80", "ab\xE2\x82", "ab\xE2\x28\xA1"})
    CHECK(first_invalid_utf8(text) == std::optional<std::size_t>(2));
  CHECK(latin1_to_utf8("caf\xE9") == "caf\xC3\xA9");
}

TEST_CASE("content decides what is gzip; a damaged stream is an error") {
  const TemporaryFolder folder;
  const std::string text = good + "1\t2\t3\t4\n5\t6\t1\t9\n";
  write_text(folder / "plain.inter.gz", text);
  write_text(folder / "packed.inter", gzipped(text));
  write_text(folder / "two.inter", gzipped(text) + gzipped("7\t8\t2\t3\n"));
  std::string cut = gzipped(text), wrong = gzipped(text);
  cut.resize(cut.size() - 12);
  wrong[wrong.size() - 6] ^= 1;  // inside the checksum
  write_text(folder / "cut.inter", cut);
  write_text(folder / "wrong.inter", wrong);
  CHECK(load_interactions(folder / "plain.inter.gz").rows() == 2);
  CHECK(load_interactions(folder / "packed.inter").rows() == 2);
  CHECK(load_interactions(folder / "two.inter").rows() == 3);
  CHECK(contains(input_error([&] { load_interactions(folder / "cut.inter"); }), "unexpected end of the gzip stream"));
  CHECK(input_error([&] { load_interactions(folder / "wrong.inter"); }) != "");
}

TEST_CASE("the messy .inter and .item files do as their table says") {
  const auto root = data_root();
  if (!root) return skip_test("data messy");
  const std::filesystem::path messy = *root / "messy";
  CHECK(contains(input_error([&] { load_interactions(messy / "34-unknown-type.inter"); }),
                 "34-unknown-type.inter, line 1, column 2: unknown type `tokn`; legal: token, token_seq, float, float_seq"));
  CHECK(contains(input_error([&] { load_interactions(messy / "35-no-types.inter"); }),
                 "line 1, column 1: `user_id` has no type\nHINT: write `user_id:token`"));

  DatasetOptions no_time;
  no_time.columns.require_time = false;
  const Dataset orphans = load_movielens(messy / "36-orphans.inter", no_time);
  CHECK(orphans.interactions.rows() == 3);
  REQUIRE(orphans.interactions.warnings.size() == 1);
  CHECK(contains(orphans.interactions.warnings[0], "1 item (1 row, 33.3 %) without metadata"));
  CHECK(orphans.items.size() == 4);  // 10, 11, 99 rated; 12 known
  CHECK(orphans.items[0].genres == std::vector<std::string>{"Animation", "Comedy"});
  CHECK(prompt_title(orphans.items[0]) == "Toy Story (1995)");

  // The last two are .item files: read them beside a small .inter of their own.
  const TemporaryFolder folder;
  write_text(folder / "x.inter", good + "1\t1\t3\t4\n");
  const auto with_items = [&](const char* name, Encoding encoding) {
    std::filesystem::copy_file(messy / name, folder / "x.item", std::filesystem::copy_options::overwrite_existing);
    std::filesystem::permissions(folder / "x.item", std::filesystem::perms::owner_all);
    DatasetOptions options;
    options.item_encoding = encoding;
    return load_movielens(folder.path(), options);
  };
  CHECK(contains(input_error([&] { with_items("22-latin1.item", Encoding::utf8); }),
                 "line 1, column 2, byte offset 5: invalid UTF-8\nHINT: convert the file to UTF-8; "
                 "if it is Latin-1, say data.encoding: latin-1"));
  const Dataset latin = with_items("22-latin1.item", Encoding::latin1);
  REQUIRE(latin.items.size() == 3);
  CHECK(prompt_title(latin.items[0]) == "La Cit\xC3\xA9 des enfants perdus (1995)");
  CHECK(prompt_title(latin.items[1]) == "Am\xC3\xA9lie (2001)");
  CHECK(prompt_title(latin.items[2]) == "Se\xC3\xB1orita (1999)");
  CHECK(contains(input_error([&] { with_items("45-duplicate-item.item", Encoding::utf8); }),
                 "line 4: item `11` already defined on line 3 with another title"));
}
