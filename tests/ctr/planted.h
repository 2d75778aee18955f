// A small rated catalogue with a planted taste: every user likes half of the genres, which neither item nor user bias can tell.
#pragma once

#include "base/hash.h"
#include "data/movielens.h"

namespace expctr {

inline Dataset planted_catalogue(int users = 80, int items = 60, int rated = 40) {
  constexpr int genres = 4;
  Dataset data;
  data.name = "planted";
  for (int i = 0; i < items; ++i) {
    data.interactions.items.add(std::to_string(i + 1));
    data.items.push_back({"Item " + std::to_string(i + 1), std::to_string(1980 + i % 7), {"genre" + std::to_string(i % genres)}});
  }
  for (int u = 0; u < users; ++u) {
    data.interactions.users.add(std::to_string(u + 1));
    data.users.push_back({std::to_string(20 + u % 40), u % 2 == 0 ? "M" : "F", "job" + std::to_string(u % 5)});
    const std::uint64_t taste = splitmix64(static_cast<std::uint64_t>(u)) % 6;  // which two of four genres
    constexpr int pairs[6][2] = {{0, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 3}};
    for (int k = 0; k < rated; ++k) {
      const std::uint64_t draw = splitmix64(1000003u * static_cast<std::uint64_t>(u) + static_cast<std::uint64_t>(k));
      const int item = static_cast<int>((static_cast<std::uint64_t>(k) * 7 + splitmix64(static_cast<std::uint64_t>(u))) %
                                        static_cast<std::uint64_t>(items));
      const bool liked = item % genres == pairs[taste][0] || item % genres == pairs[taste][1];
      const bool flipped = draw % 20 == 0;
      data.interactions.user.push_back(u);
      data.interactions.item.push_back(item);
      data.interactions.rating.push_back(liked != flipped ? 5.0f : 2.0f);
      data.interactions.time.push_back(1e9 + 100.0 * k);
    }
  }
  return data;
}

}  // namespace expctr
