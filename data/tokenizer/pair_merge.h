// Byte-pair merging: of all neighbouring symbols that form a pair of the table, the pair with the lowest rank becomes one symbol, the
// leftmost where ranks are equal, until no pair is left.   Source: Sennrich, Haddow, Birch 2016.
#pragma once

#include <cstdint>
#include <vector>

namespace expctr {

/// What a pair of symbols becomes, and how early.
struct PairMerge {
  std::int32_t rank = 0, id = 0;
};

/// Hash table from two ids to a merge; open addressing, at most half full.
class PairTable {
 public:
  explicit PairTable(std::size_t expected = 0);
  /// Of two merges for one pair the one with the lower rank stays.
  void insert(std::int32_t left, std::int32_t right, PairMerge merge);
  /// Null when the pair does not merge; negative ids never do.
  const PairMerge* find(std::int32_t left, std::int32_t right) const;

 private:
  struct Slot {
    std::uint64_t key = empty;
    PairMerge merge;
  };
  static constexpr std::uint64_t empty = ~std::uint64_t{0};
  std::size_t place_of(std::uint64_t key) const;
  void grow();

  std::vector<Slot> slots_;
  std::size_t used_ = 0;
};

/// Merges in place, n symbols in O(n log n) time. Holds its scratch memory; one a thread.
class PairMerger {
 public:
  void merge(std::vector<std::int32_t>& symbols, const PairTable& table);

 private:
  struct Candidate {
    std::int32_t rank, id;
    std::uint32_t position;
    std::int32_t left, right;
    /// Order of a heap whose top is the lowest rank, then the leftmost place.
    bool operator<(const Candidate& other) const { return rank != other.rank ? rank > other.rank : position > other.position; }
  };
  void push(const std::vector<std::int32_t>& symbols, const PairTable& table, std::uint32_t position);

  std::vector<Candidate> heap_;
  std::vector<std::uint32_t> next_, previous_;
};

}  // namespace expctr
