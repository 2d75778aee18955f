// A rated catalogue as one table: interactions, items with title, year and genres, users with age, gender and occupation.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "data/interactions.h"

namespace expctr {

struct Item {
  std::string title;  ///< as in the file, without the year
  std::string year;   ///< text; not always a number
  std::vector<std::string> genres;
};

struct User {
  std::string age, gender, occupation;  ///< as in the file; empty when unknown
};

struct Dataset {
  std::string name;
  Interactions interactions;
  std::vector<Item> items;  ///< by item number; items nobody rated come after the rated ones
  std::vector<User> users;  ///< by user number
};

struct DatasetOptions {
  InteractionColumns columns;
  Encoding item_encoding = Encoding::utf8;  ///< u.item is read as Latin-1 whatever stands here, unless it is valid UTF-8
};

/// Reads a folder with one `.inter`, `.item` and `.user` file (RecBole's names) or u.data, u.item, u.user (MovieLens-100K as
/// published), or a single `.inter` file. Without `.item` and `.user` the attributes stay empty. Warnings (items without
/// metadata) are added to interactions.warnings. Errors: AtomicReader's; an item or user defined twice; an ambiguous folder.
Dataset load_movielens(const std::filesystem::path& path, const DatasetOptions& options = {});

/// The `.inter` or u.data file of a folder, or the file itself.
std::filesystem::path interaction_file(const std::filesystem::path& path);

/// "Silence of the Lambs, The" -> "The Silence of the Lambs", also within parentheses.
std::string move_article(std::string_view title);

/// What a prompt calls the item: article moved, " (year)" appended where the year is a number, at most `longest` characters.
std::string prompt_title(const Item& item, std::size_t longest = 150);

/// MovieLens-1M's buckets: "<18", "18-24", "25-34", "35-44", "45-49", "50-55", "56+"; the text itself when it is no number.
std::string age_bucket(std::string_view age);

}  // namespace expctr
