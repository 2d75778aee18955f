// The lower, never adapted blocks of prompts: their keys, values and outputs, computed once and shared by policy, reference, scorer and every PPO epoch.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "models/llm/decoder.h"
#include "models/llm/kv_cache.h"

namespace expctr {

using Tokens = std::vector<std::int32_t>;

class PrefixStore;

/// A sequence of a PrefixStore that gives its pages back at the end of its life, also when an exception ends it.
class LowerSequence {
 public:
  LowerSequence() = default;
  LowerSequence(PrefixStore& store, CachedSequence sequence) : store_(&store), sequence_(std::move(sequence)) {}
  LowerSequence(LowerSequence&& other) noexcept : store_(std::exchange(other.store_, nullptr)), sequence_(std::move(other.sequence_)) {}
  LowerSequence& operator=(LowerSequence&& other) noexcept;
  ~LowerSequence() { release(); }
  CachedSequence& operator*() { return sequence_; }
  void release() noexcept;

 private:
  PrefixStore* store_ = nullptr;
  CachedSequence sequence_;
};

/// Splits a decoder at layer `split`: blocks below always use the base weights. Results do not depend on what is in the store (row invariance): without it
/// they are recomputed, to the same bits on the CPU.
class PrefixStore {
 public:
  /// Keeps at most `budget_bytes` of finished prompts of at least a page (attention_block tokens); `working_pages` are set aside for sequences in flight.
  PrefixStore(const Decoder& decoder, std::int64_t split, std::size_t budget_bytes, std::int64_t working_pages);
  PrefixStore(const PrefixStore&) = delete;
  PrefixStore& operator=(const PrefixStore&) = delete;

  const Decoder& decoder() const { return decoder_; }
  std::int64_t split() const { return split_; }

  struct Lower {
    Tensor hidden;                         ///< [sum of prompt lengths, width], output of block split - 1 (the embeddings when split is 0)
    std::vector<LowerSequence> sequences;  ///< filled when asked for
  };
  /// Whole prompts. `remember`: keep them for later calls. `keep_sequences`: the caller goes on decoding.
  Lower run(std::span<const Tokens> prompts, bool remember, bool keep_sequences);
  /// One more token for each sequence: ids [sequences] -> hidden [sequences, width].
  Tensor advance(std::span<CachedSequence* const> sequences, std::span<const std::int32_t> ids);

  std::uint64_t tokens_asked() const { return tokens_asked_; }
  std::uint64_t tokens_computed() const { return tokens_computed_; }
  std::size_t bytes() const { return bytes_; }

 private:
  friend class LowerSequence;
  struct Entry {
    Tokens tokens;
    CachedSequence sequence;
    Tensor hidden;
    std::size_t bytes = 0;
  };
  using EntryList = std::list<std::shared_ptr<Entry>>;

  std::shared_ptr<Entry> find(const Tokens& prompt, std::int64_t& common);
  void insert(std::shared_ptr<Entry> entry);
  void evict_oldest();
  void make_room(std::int64_t pages);

  const Decoder& decoder_;
  std::int64_t split_;
  std::size_t budget_, bytes_ = 0;
  KvCache cache_;
  EntryList entries_;                                                          ///< most recently used first
  std::unordered_map<std::uint64_t, std::vector<std::weak_ptr<Entry>>> index_;  ///< hash of the first n pages' tokens -> entries
  std::uint64_t tokens_asked_ = 0, tokens_computed_ = 0;
};

/// Longest batch of tokens that one forward pass takes without gradients: bounds the memory of activations.
constexpr std::int64_t forward_token_budget = 2048;

}  // namespace expctr
