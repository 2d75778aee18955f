// Keys and values of past tokens, in pages of attention_block tokens that sequences share by reference count.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/core/tensor.h"

namespace expctr {

/// A sequence's place in a KvCache: page ids in order, and how many tokens they hold. Released through KvCache::release.
struct CachedSequence {
  std::vector<std::int32_t> pages;
  std::int64_t length = 0;
};

/// Pages for the layers first_layer .. last_layer - 1 of one decoder. A page holds the keys and values of attention_block tokens of all these layers.
/// Not thread-safe: used from the thread that runs the model.
class KvCache {
 public:
  KvCache(std::int64_t first_layer, std::int64_t last_layer, std::int64_t row_width, std::int64_t pages, Device device);

  /// Bytes of one page for a number of layers and a row of kv_heads * head_dim floats.
  static std::size_t page_bytes(std::int64_t layers, std::int64_t row_width);
  static std::int64_t pages_for(std::int64_t tokens);

  std::int64_t first_layer() const { return first_layer_; }
  std::int64_t last_layer() const { return last_layer_; }
  std::int64_t page_count() const { return static_cast<std::int64_t>(references_.size()); }
  std::int64_t free_pages() const { return static_cast<std::int64_t>(free_.size()); }

  /// Free pages that append(sequence, tokens) would take (a shared, partly filled last page is copied on write and counts).
  std::int64_t pages_needed(const CachedSequence& sequence, std::int64_t tokens) const;
  /// Makes room for `tokens` more tokens and returns their slots (page * attention_block + place). Throws ResourceError when pages run out.
  std::vector<std::int32_t> append(CachedSequence& sequence, std::int64_t tokens);
  /// A new sequence that shares the first `length` tokens.
  CachedSequence fork(const CachedSequence& sequence, std::int64_t length);
  void release(CachedSequence& sequence) noexcept;

  const Tensor& keys(std::int64_t layer) const { return keys_[static_cast<std::size_t>(layer - first_layer_)]; }
  const Tensor& values(std::int64_t layer) const { return values_[static_cast<std::size_t>(layer - first_layer_)]; }

 private:
  std::int32_t take_page();

  std::int64_t first_layer_, last_layer_;
  std::vector<Tensor> keys_, values_;     ///< per layer [pages, attention_block, row_width]
  std::vector<std::int32_t> references_;  ///< per page
  std::vector<std::int32_t> free_;
};

}  // namespace expctr
