#include "data/interactions.h"

#include <nlohmann/json.hpp>

#include "base/hash.h"
#include "data/movielens.h"
#include "data/stats.h"
#include "tests/data/support.h"

using namespace expctr;

namespace {

Interactions table_of(const std::string& rows, const InteractionColumns& columns = {}) {
  AtomicReader reader("t.inter", pieces("user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + rows, 7));
  return read_interactions(reader, columns);
}

}  // namespace

TEST_CASE("ids are text; only plain numbers hash as numbers") {
  IdTable ids;
  for (const char* id : {"7", "007", "10", "9", "b", "a", "18446744073709551615", "18446744073709551616", "1e3", "-1", "0"}) ids.add(id);
  CHECK(ids.size() == 11);
  CHECK(ids.add("007") == 1);
  CHECK(ids.key(0) == 7);
  CHECK(ids.key(1) == fnv1a("007"));
  CHECK(ids.key(6) == 18446744073709551615ull);
  CHECK(ids.key(7) == fnv1a("18446744073709551616"));
  CHECK(ids.key(8) == fnv1a("1e3"));
  CHECK(ids.key(9) == fnv1a("-1"));
  CHECK(ids.key(10) == 0);
  CHECK(ids.less(3, 2));  // 9 before 10
  CHECK(ids.less(2, 5));  // numbers before texts
  CHECK(ids.less(5, 4));  // a before b
  CHECK_FALSE(ids.less(2, 2));
  CHECK(ids.find("8") == -1);
}

TEST_CASE("label rules") {
  CHECK(LabelRule("rating >= 4")(4));
  CHECK_FALSE(LabelRule("rating >= 4")(3.5));
  CHECK(LabelRule("rating>3")(3.5));
  CHECK_FALSE(LabelRule("rating > 3")(3));
  CHECK(LabelRule(" rating <= 2.5 ")(2.5));
  CHECK(LabelRule("rating < 2")(1));
  CHECK(LabelRule("rating == 5")(5));
  for (const char* wrong : {"", "rating", "rating >=", "rating => 4", "stars >= 4", "rating >= 4 5", "rating >= x", "rating >= nan"})
    CHECK_THROWS_AS(LabelRule{wrong}, UsageError);
  CHECK(labels_of(table_of("1\t2\t4\t9\n1\t3\t3\t9\n"), LabelRule()) == std::vector<std::uint8_t>{1, 0});
}

TEST_CASE("odd times and repeated pairs are kept and told of") {
  CHECK(table_of("1\t2\t4\t9\n1\t3\t3\t9\n").warnings.empty());
  const auto negative = table_of("196\t242\t3\t881250949\n186\t302\t3\t-86400\n").warnings;
  REQUIRE(negative.size() == 1);
  CHECK(contains(negative[0], "1969-12-31 to 1997-12-04"));
  const auto mixed = table_of("196\t242\t3\t881250949\n186\t302\t3\t891717742000\n22\t377\t1\t878887116\n").warnings;
  REQUIRE(mixed.size() == 1);
  CHECK(contains(mixed[0], "year 30227"));
  CHECK(contains(mixed[0], "units seem mixed"));
  CHECK(contains(mixed[0], "line 3"));
  const Interactions repeated = table_of("1\t2\t3\t4\n1\t2\t3\t4\n1\t2\t5\t6\n1\t3\t3\t4\n2\t2\t3\t4\n");
  CHECK(repeated.rows() == 5);
  REQUIRE(repeated.warnings.size() == 1);
  CHECK(contains(repeated.warnings[0], "2 rows repeat a pair of user and item, 1 of them identically"));
}

TEST_CASE("columns may have other names; time may be absent") {
  AtomicReader reader("t.inter", pieces("u:token\ti:token\tr:float\n1\t2\t3\n1\t3\t4\n1\t4\t4\n2\t2\t3\n", 100));
  InteractionColumns columns{"u", "i", "r", "timestamp", true, false};
  Interactions data = read_interactions(reader, columns);
  CHECK(data.time.empty());
  order_without_time(data, 2024);
  std::vector<double> first(data.time.begin(), data.time.begin() + 3);
  std::sort(first.begin(), first.end());
  CHECK(first == std::vector<double>{0, 1, 2});
  CHECK(data.time[3] == 0);
  Interactions again = data;
  order_without_time(again, 2024);
  CHECK(again.time == data.time);
}

TEST_CASE("titles: articles to the front, the year behind") {
  CHECK(move_article("Silence of the Lambs, The") == "The Silence of the Lambs");
  CHECK(move_article("Silence of the Lambs, The (1991)") == "The Silence of the Lambs (1991)");
  CHECK(move_article("Horseman on the Roof, The (Hussard sur le toit, Le)") == "The Horseman on the Roof (Le Hussard sur le toit)");
  CHECK(move_article("Star Maker, The (Uomo delle stelle, L')") == "The Star Maker (L'Uomo delle stelle)");
  CHECK(move_article("Paris, Texas") == "Paris, Texas");
  CHECK(move_article("Maybe, Maybe Not (Bewegte Mann, Der)") == "Maybe, Maybe Not (Der Bewegte Mann)");
  CHECK(move_article("Mrs. Brown (Her Majesty, Mrs. Brown)") == "Mrs. Brown (Her Majesty, Mrs. Brown)");
  CHECK(move_article("") == "");
  CHECK(move_article(", The") == ", The");
  CHECK(prompt_title({"Usual Suspects, The", "1995", {}}) == "The Usual Suspects (1995)");
  CHECK(prompt_title({"unkonwn", "unkonwn", {}}) == "unkonwn");
  CHECK(prompt_title({"Land Before Time III (1995)", "V", {}}) == "Land Before Time III (1995)");
  CHECK(prompt_title({"\xC3\xA9\xC3\xA9\xC3\xA9", "", {}}, 2) == "\xC3\xA9\xC3\xA9");
}

TEST_CASE("age buckets") {
  CHECK(age_bucket("17") == "<18");
  CHECK(age_bucket("18") == "18-24");
  CHECK(age_bucket("24") == "18-24");
  CHECK(age_bucket("25") == "25-34");
  CHECK(age_bucket("49") == "45-49");
  CHECK(age_bucket("55") == "50-55");
  CHECK(age_bucket("56") == "56+");
  CHECK(age_bucket("?") == "?");
  CHECK(age_bucket("") == "");
}

TEST_CASE("MovieLens as published and as repackaged give the same table") {
  const TemporaryFolder original, atomic;
  write_text(original / "u.data", "196\t242\t3\t881250949\n186\t302\t4\t891717742\n");
  const std::string flags = "|01-Jan-1995||http://x|0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0\n";
  write_text(original / "u.item", "242|Cit\xE9 des enfants perdus, La (1995)" + flags +
                                      "302|Kiki (1995) (V)|||http://y|1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n");
  write_text(original / "u.user", "196|24|M|technician|85711\n186|53|F|other|94043\n");
  write_text(atomic / "m.inter",
             "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n186\t302\t4\t891717742\n");
  write_text(
      atomic / "m.item",
      "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n242\tCit\xC3\xA9 des enfants perdus, La\t1995\tAnimation "
      "Children's Comedy\n302\tKiki (1995)\tV\tunknown\n");
  write_text(atomic / "m.user",
             "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:"
             "token\n196\t24\tM\ttechnician\t85711\n186\t53\tF\tother\t94043\n");
  const Dataset a = load_movielens(original.path()), b = load_movielens(atomic.path());
  REQUIRE(a.items.size() == 2);
  REQUIRE(b.items.size() == 2);
  CHECK(a.interactions.time == b.interactions.time);
  CHECK(a.interactions.rating == b.interactions.rating);
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(a.items[i].title == b.items[i].title);
    CHECK(a.items[i].year == b.items[i].year);
    CHECK(a.items[i].genres == b.items[i].genres);
    CHECK(a.users[i].age == b.users[i].age);
    CHECK(a.users[i].gender == b.users[i].gender);
    CHECK(a.users[i].occupation == b.users[i].occupation);
  }
  CHECK(prompt_title(a.items[0]) == "La Cit\xC3\xA9 des enfants perdus (1995)");
}

TEST_CASE("folders that hold no data or too much of it") {
  const TemporaryFolder folder;
  CHECK(contains(input_error([&] { load_movielens(folder.path()); }), "neither an .inter file nor u.data"));
  CHECK(contains(input_error([&] { load_movielens(folder / "gone"); }), "no such file or folder"));
  write_text(folder / "a.inter", "");
  write_text(folder / "b.inter", "");
  CHECK(contains(input_error([&] { load_movielens(folder.path()); }), "several .inter files (a.inter, b.inter)"));
}

TEST_CASE("data stats") {
  const TemporaryFolder folder;
  write_text(folder / "a.inter",
             "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\t5\t10\n1\t3\t3\t20\n2\t3\t4\t15\n3\t3\t1\t5\n");
  const auto stats = data_stats(folder.path(), LabelRule("rating >= 4"));
  CHECK(stats["rows"] == 4);
  CHECK(stats["users"] == 3);
  CHECK(stats["items"] == 2);
  CHECK(stats["positive_share"] == 0.5);
  CHECK(stats["first_time"] == 5);
  CHECK(stats["last_time"] == 20);
  CHECK(stats["skipped"] == 0);
  CHECK(stats["seconds"].get<double>() >= 0);
  CHECK(stats["peak_bytes"].get<std::int64_t>() > 0);
  write_text(folder / "a.inter", "user_id:token\titem_id:token\n1\t2\n");
  const auto bare = data_stats(folder / "a.inter", LabelRule());
  CHECK(bare["positive_share"].is_null());
  CHECK(bare["first_time"].is_null());
}
