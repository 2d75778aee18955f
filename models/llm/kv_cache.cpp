#include "models/llm/kv_cache.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/kernels/attention.h"

namespace expctr {

KvCache::KvCache(std::int64_t first_layer, std::int64_t last_layer, std::int64_t row_width, std::int64_t pages, Device device)
    : first_layer_(first_layer), last_layer_(last_layer), references_(static_cast<std::size_t>(pages), 0) {
  for (std::int64_t layer = first_layer; layer < last_layer; ++layer) {
    keys_.push_back(Tensor::empty({pages, attention_block, row_width}, DType::f32, device));
    values_.push_back(Tensor::empty({pages, attention_block, row_width}, DType::f32, device));
  }
  for (std::int64_t page = pages; page-- > 0;) free_.push_back(static_cast<std::int32_t>(page));
}

std::size_t KvCache::page_bytes(std::int64_t layers, std::int64_t row_width) {
  return static_cast<std::size_t>(layers * 2 * attention_block * row_width) * sizeof(float);
}

std::int64_t KvCache::pages_for(std::int64_t tokens) { return (tokens + attention_block - 1) / attention_block; }

std::int64_t KvCache::pages_needed(const CachedSequence& sequence, std::int64_t tokens) const {
  if (tokens == 0) return 0;
  std::int64_t needed = pages_for(sequence.length + tokens) - static_cast<std::int64_t>(sequence.pages.size());
  const bool partly_filled = sequence.length % attention_block != 0;
  if (partly_filled && references_[static_cast<std::size_t>(sequence.pages.back())] > 1) ++needed;
  return needed;
}

std::int32_t KvCache::take_page() {
  if (free_.empty()) {
    throw ResourceError(fmt::format("key-value cache: all {} pages of {} tokens are in use", page_count(), attention_block),
                        "raise cache.prefix_bytes, or use a smaller batch or shorter prompts");
  }
  const std::int32_t page = free_.back();
  free_.pop_back();
  references_[static_cast<std::size_t>(page)] = 1;
  return page;
}

std::vector<std::int32_t> KvCache::append(CachedSequence& sequence, std::int64_t tokens) {
  if (tokens == 0) return {};
  if (const std::int64_t filled = sequence.length % attention_block; filled != 0) {
    std::int32_t& last = sequence.pages.back();
    if (references_[static_cast<std::size_t>(last)] > 1) {  // copy on write
      const std::int32_t copy = take_page();
      for (std::size_t i = 0; i < keys_.size(); ++i) {
        for (const Tensor* pool : {&keys_[i], &values_[i]}) {
          const Shape rows{pool->dim(0) * attention_block, pool->dim(2)};
          pool->reshape(rows).slice_rows(std::int64_t{copy} * attention_block, filled).copy_from(pool->reshape(rows).slice_rows(std::int64_t{last} * attention_block, filled));
        }
      }
      --references_[static_cast<std::size_t>(last)];
      last = copy;
    }
  }
  while (static_cast<std::int64_t>(sequence.pages.size()) < pages_for(sequence.length + tokens)) sequence.pages.push_back(take_page());
  std::vector<std::int32_t> slots;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int64_t at = sequence.length + t;
    slots.push_back(sequence.pages[static_cast<std::size_t>(at / attention_block)] * attention_block + static_cast<std::int32_t>(at % attention_block));
  }
  sequence.length += tokens;
  return slots;
}

CachedSequence KvCache::fork(const CachedSequence& sequence, std::int64_t length) {
  CachedSequence result;
  result.length = length;
  result.pages.assign(sequence.pages.begin(), sequence.pages.begin() + pages_for(length));
  for (const std::int32_t page : result.pages) ++references_[static_cast<std::size_t>(page)];
  return result;
}

void KvCache::release(CachedSequence& sequence) noexcept {
  for (const std::int32_t page : sequence.pages) {
    if (--references_[static_cast<std::size_t>(page)] == 0) free_.push_back(page);
  }
  sequence = {};
}

}  // namespace expctr
