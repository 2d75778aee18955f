#include "data/tokenizer/pair_merge.h"

#include <algorithm>
#include <bit>

#include "base/hash.h"

namespace expctr {
namespace {

constexpr std::uint32_t none = ~std::uint32_t{0};
constexpr std::int32_t gone = -2;  ///< a symbol that was merged into the one before it

std::uint64_t key_of(std::int32_t left, std::int32_t right) {
  return (std::uint64_t{static_cast<std::uint32_t>(left)} << 32) | static_cast<std::uint32_t>(right);
}

}  // namespace

PairTable::PairTable(std::size_t expected) : slots_(std::bit_ceil(2 * expected + 16)) {}

std::size_t PairTable::place_of(std::uint64_t key) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t i = splitmix64(key) & mask;
  while (slots_[i].key != key && slots_[i].key != empty) i = (i + 1) & mask;
  return i;
}

void PairTable::grow() {
  std::vector<Slot> old(2 * slots_.size());
  old.swap(slots_);
  for (const Slot& entry : old)
    if (entry.key != empty) slots_[place_of(entry.key)] = entry;
}

void PairTable::insert(std::int32_t left, std::int32_t right, PairMerge merge) {
  if (2 * (used_ + 1) > slots_.size()) grow();
  Slot& slot = slots_[place_of(key_of(left, right))];
  if (slot.key != empty && slot.merge.rank <= merge.rank) return;
  if (slot.key == empty) ++used_;
  slot = {key_of(left, right), merge};
}

const PairMerge* PairTable::find(std::int32_t left, std::int32_t right) const {
  if (left < 0 || right < 0) return nullptr;
  const Slot& slot = slots_[place_of(key_of(left, right))];
  return slot.key == empty ? nullptr : &slot.merge;
}

void PairMerger::push(const std::vector<std::int32_t>& symbols, const PairTable& table, std::uint32_t position) {
  const std::int32_t left = symbols[position], right = symbols[next_[position]];
  const PairMerge* merge = table.find(left, right);
  if (merge == nullptr) return;
  heap_.push_back({merge->rank, merge->id, position, left, right});
  std::push_heap(heap_.begin(), heap_.end());
}

void PairMerger::merge(std::vector<std::int32_t>& symbols, const PairTable& table) {
  const auto n = static_cast<std::uint32_t>(symbols.size());
  if (n < 2) return;
  heap_.clear();
  next_.resize(n);
  previous_.resize(n);
  for (std::uint32_t i = 0; i < n; ++i) {
    next_[i] = i + 1 < n ? i + 1 : none;
    previous_[i] = i > 0 ? i - 1 : none;
  }
  for (std::uint32_t i = 0; i + 1 < n; ++i) push(symbols, table, i);

  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end());
    const Candidate best = heap_.back();
    heap_.pop_back();
    const std::uint32_t left = best.position, right = next_[left];
    if (right == none || symbols[left] != best.left || symbols[right] != best.right) continue;  // an earlier merge took one of the two
    symbols[left] = best.id;
    symbols[right] = gone;
    next_[left] = next_[right];
    if (next_[left] != none) {
      previous_[next_[left]] = left;
      push(symbols, table, left);
    }
    if (previous_[left] != none) push(symbols, table, previous_[left]);
  }
  std::erase(symbols, gone);
}

}  // namespace expctr
