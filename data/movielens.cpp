#include "data/movielens.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <map>

#include "base/error.h"

namespace expctr {
namespace {

namespace fs = std::filesystem;

constexpr std::array<const char*, 19> movielens_genres = {
    "unknown",   "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime",    "Documentary", "Drama",  "Fantasy",
    "Film-Noir", "Horror", "Musical",   "Mystery",   "Romance",    "Sci-Fi", "Thriller", "War",         "Western"};

// The one file of a folder whose name ends in `extension`; nullopt when there is none.
std::optional<fs::path> only_file(const fs::path& folder, const std::string& extension) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == extension) found.push_back(entry.path());
  if (found.size() > 1) {
    std::sort(found.begin(), found.end());
    throw InputError(fmt::format("{}: several {} files ({}, {})", folder.string(), extension, found[0].filename().string(),
                                 found[1].filename().string()),
                     "name the .inter file itself in data.path");
  }
  return found.empty() ? std::nullopt : std::optional(found[0]);
}

bool all_digits(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// "Toy Story (1995)" -> year "1995"; "... (1995) (V)" -> year "V", as RecBole's conversion has it. Other endings stay in the title.
void take_year_off(Item& item) {
  if (item.title.empty() || item.title.back() != ')') return;
  const std::size_t open = item.title.rfind('(');
  if (open == std::string::npos) return;
  const std::string inside = item.title.substr(open + 1, item.title.size() - open - 2);
  if (!(inside.size() == 4 && all_digits(inside)) && inside != "V" && inside != "TV") return;
  item.year = inside;
  item.title.resize(open);
  while (!item.title.empty() && item.title.back() == ' ') item.title.pop_back();
}

class ItemSink {
 public:
  ItemSink(Dataset& data, const AtomicReader& reader) : data_(data), reader_(reader) {}

  void add(int id_column, Item item) {
    const std::string id(reader_.id(id_column));
    const auto [entry, is_new] = lines_.try_emplace(id, reader_.line(), item.title);
    if (!is_new)
      reader_.fail_line(fmt::format("item `{}` already defined on line {}{}", id, entry->second.first,
                                    entry->second.second == item.title ? "" : " with another title"),
                        "keep one line an item");
    const std::int32_t index = data_.interactions.items.add(id);
    if (data_.items.size() <= static_cast<std::size_t>(index)) data_.items.resize(static_cast<std::size_t>(index) + 1);
    data_.items[static_cast<std::size_t>(index)] = std::move(item);
  }

 private:
  Dataset& data_;
  const AtomicReader& reader_;
  std::map<std::string, std::pair<std::int64_t, std::string>> lines_;
};

int first_of(const AtomicReader& reader, std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (const auto column = reader.find(name)) return *column;
  return -1;
}

void read_item_file(const fs::path& path, Dataset& data, const DatasetOptions& options) {
  AtomicReader reader(path);
  const int id = reader.require(options.columns.item + ":token", "name the column with data.columns.item");
  const int title = first_of(reader, {"movie_title", "title", "item_title", "name"});
  const int year = first_of(reader, {"release_year", "year"});
  const int genres = first_of(reader, {"class", "genres", "genre"});
  ItemSink sink(data, reader);
  while (reader.next()) {
    Item item;
    if (title >= 0) item.title = reader.text(title);
    if (year >= 0)
      item.year = reader.text(year);
    else
      take_year_off(item);
    if (genres >= 0) item.genres = reader.sequence(genres);
    sink.add(id, std::move(item));
  }
}

// id|title (year)|... : with 24 columns the last 19 are genre flags (MovieLens-100K), with 3 the last one names the genres.
void read_bar_items(const fs::path& path, Dataset& data, Encoding encoding) {
  PlainForm form;
  form.delimiter = '|';
  form.encoding = encoding;
  form.columns = {{"item_id", ColumnType::token}, {"title", ColumnType::token_seq}};
  form.more_columns = true;
  AtomicReader reader(path, form);
  ItemSink sink(data, reader);
  while (reader.next()) {
    Item item;
    item.title = reader.text(1);
    take_year_off(item);
    if (reader.fields() == 24) {
      for (int genre = 0; genre < 19; ++genre)
        if (reader.text(5 + genre) == "1") item.genres.emplace_back(movielens_genres[static_cast<std::size_t>(genre)]);
    } else if (reader.fields() == 3) {
      item.genres = reader.sequence(2);
    } else {
      reader.fail_line(fmt::format("{} fields, expected 24 (u.item of MovieLens-100K) or 3 (id, title, genres)", reader.fields()),
                       "columns are separated by `|`");
    }
    sink.add(0, std::move(item));
  }
}

struct LineForm {
  bool bars = false, valid_utf8 = true;
};

// Looks at the whole file: is its first line one of `|` columns, and is it UTF-8?
LineForm look_at(const fs::path& path) {
  LineReader lines(path.string(), open_bytes(path));
  LineForm form;
  Line line;
  while (lines.next(line)) {
    if (line.number == 1) form.bars = line.text.find('\t') == std::string_view::npos && line.text.find('|') != std::string_view::npos;
    if (first_invalid_utf8(line.text)) form.valid_utf8 = false;
  }
  return form;
}

void read_items(const fs::path& path, Dataset& data, const DatasetOptions& options) {
  const LineForm form = look_at(path);
  if (!form.bars) return read_item_file(path, data, options);
  const bool published = path.filename() == "u.item";
  read_bar_items(path, data, published && !form.valid_utf8 ? Encoding::latin1 : options.item_encoding);
}

void read_users(AtomicReader& reader, Dataset& data, const std::string& id_name) {
  const int id = reader.require(id_name + ":token", "name the column with data.columns.user");
  const int age = reader.find("age").value_or(-1), gender = reader.find("gender").value_or(-1);
  const int occupation = reader.find("occupation").value_or(-1);
  std::map<std::string, std::int64_t> lines;
  while (reader.next()) {
    const std::string text(reader.id(id));
    const auto [entry, is_new] = lines.try_emplace(text, reader.line());
    if (!is_new) reader.fail_line(fmt::format("user `{}` already defined on line {}", text, entry->second), "keep one line a user");
    const std::int32_t user = data.interactions.users.find(text);
    if (user < 0) continue;  // a user without interactions can be neither trained on nor explained to
    User& row = data.users[static_cast<std::size_t>(user)];
    if (age >= 0) row.age = reader.text(age);
    if (gender >= 0) row.gender = reader.text(gender);
    if (occupation >= 0) row.occupation = reader.text(occupation);
  }
}

void read_user_file(const fs::path& path, Dataset& data, const DatasetOptions& options) {
  if (path.filename() == "u.user") {
    PlainForm form;
    form.delimiter = '|';
    form.columns = {{"user_id", ColumnType::token},
                    {"age", ColumnType::token},
                    {"gender", ColumnType::token},
                    {"occupation", ColumnType::token},
                    {"zip_code", ColumnType::token}};
    AtomicReader reader(path, form);
    return read_users(reader, data, "user_id");
  }
  AtomicReader reader(path);
  read_users(reader, data, options.columns.user);
}

void warn_of_orphans(Dataset& data, std::size_t described) {
  if (described == 0) return;
  std::vector<std::int64_t> rows(data.items.size(), 0);
  for (const std::int32_t item : data.interactions.item) ++rows[static_cast<std::size_t>(item)];
  std::int64_t orphans = 0, orphan_rows = 0;
  for (std::size_t item = 0; item < rows.size(); ++item)
    if (rows[item] > 0 && data.items[item].title.empty() && data.items[item].genres.empty()) {
      ++orphans;
      orphan_rows += rows[item];
    }
  if (orphans > 0)
    data.interactions.warnings.push_back(
        fmt::format("{}: {} item{} ({} row{}, {:.1f} %) without metadata; they stay in the data", data.name, orphans,
                    orphans == 1 ? "" : "s", orphan_rows, orphan_rows == 1 ? "" : "s",
                    100.0 * static_cast<double>(orphan_rows) / static_cast<double>(data.interactions.rows())));
}

}  // namespace

fs::path interaction_file(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored))
    throw InputError(fmt::format("{}: no such file or folder", path.string()),
                     "check data.path; `data fetch ml-100k` brings MovieLens-100K");
  if (!fs::is_directory(path, ignored)) return path;
  if (const auto file = only_file(path, ".inter")) return *file;
  if (fs::exists(path / "u.data", ignored)) return path / "u.data";
  throw InputError(fmt::format("{}: neither an .inter file nor u.data in this folder", path.string()),
                   "data.path is a folder with .inter, .item, .user or with u.data, u.item, u.user");
}

Dataset load_movielens(const fs::path& path, const DatasetOptions& options) {
  const fs::path inter = interaction_file(path);
  Dataset data;
  data.name = inter.filename() == "u.data" ? "u.data" : inter.stem().string();
  data.interactions = load_interactions(inter, options.columns);
  data.items.resize(static_cast<std::size_t>(data.interactions.items.size()));
  data.users.resize(static_cast<std::size_t>(data.interactions.users.size()));
  const bool published = inter.filename() == "u.data";
  fs::path item_path = inter, user_path = inter;
  item_path = published ? inter.parent_path() / "u.item" : item_path.replace_extension(".item");
  user_path = published ? inter.parent_path() / "u.user" : user_path.replace_extension(".user");
  std::error_code ignored;
  if (fs::exists(item_path, ignored)) {
    const std::size_t rated = data.items.size();
    read_items(item_path, data, options);
    warn_of_orphans(data, rated);
  }
  if (fs::exists(user_path, ignored)) read_user_file(user_path, data, options);
  return data;
}

std::string move_article(std::string_view title) {
  static constexpr std::array<std::string_view, 27> articles = {"The", "A",   "An",   "La",  "Le",  "Les", "L'",  "Il",  "Lo",
                                                                "Gli", "El",  "Los",  "Las", "Der", "Das", "Die", "Det", "Den",
                                                                "De",  "Ein", "Eine", "Un",  "Une", "Una", "Uno", "Het", "O"};
  std::string result;
  std::size_t begin = 0;
  while (begin <= title.size()) {
    // A segment ends at a parenthesis or at the end of the title.
    const std::size_t end = std::min(title.find_first_of("()", begin), title.size());
    std::string_view segment = title.substr(begin, end - begin);
    std::string_view blanks;
    if (const std::size_t last = segment.find_last_not_of(' '); last != std::string_view::npos) {
      blanks = segment.substr(last + 1);
      segment = segment.substr(0, last + 1);
    }
    const std::size_t comma = segment.rfind(", ");
    const std::string_view article = comma == std::string_view::npos ? std::string_view{} : segment.substr(comma + 2);
    if (comma != 0 && std::find(articles.begin(), articles.end(), article) != articles.end()) {
      const std::size_t start = std::min(segment.find_first_not_of(' '), segment.size());
      result.append(segment.substr(0, start)).append(article);
      if (article.back() != '\'') result += ' ';
      result.append(segment.substr(start, comma - start));
    } else {
      result.append(segment);
    }
    result.append(blanks);
    if (end < title.size()) result += title[end];
    begin = end + 1;
  }
  return result;
}

std::string prompt_title(const Item& item, std::size_t longest) {
  std::string title = move_article(item.title);
  if (all_digits(item.year)) title += " (" + item.year + ")";
  std::size_t characters = 0;
  for (std::size_t i = 0; i < title.size(); ++i) {
    if ((static_cast<unsigned char>(title[i]) & 0xC0u) == 0x80u) continue;  // inside a character
    if (characters++ == longest) return title.substr(0, i);
  }
  return title;
}

std::string age_bucket(std::string_view age) {
  int years = 0;
  const auto [end, error] = std::from_chars(age.data(), age.data() + age.size(), years);
  if (error != std::errc() || end != age.data() + age.size()) return std::string(age);
  if (years < 18) return "<18";
  if (years < 25) return "18-24";
  if (years < 35) return "25-34";
  if (years < 45) return "35-44";
  if (years < 50) return "45-49";
  if (years < 56) return "50-55";
  return "56+";
}

}  // namespace expctr
