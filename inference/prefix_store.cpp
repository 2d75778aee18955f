#include "inference/prefix_store.h"

#include <algorithm>

#include "base/hash.h"
#include "base/kernels/attention.h"

namespace expctr {
namespace {

// Hashes of the first 1, 2, ... whole pages of a prompt.
std::vector<std::uint64_t> page_hashes(const Tokens& tokens) {
  std::vector<std::uint64_t> hashes;
  std::uint64_t hash = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    hash = splitmix64(hash ^ static_cast<std::uint32_t>(tokens[i]));
    if ((i + 1) % attention_block == 0) hashes.push_back(hash);
  }
  return hashes;
}

std::int64_t common_prefix(const Tokens& a, const Tokens& b) {
  const auto [stop, other] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  (void)other;
  return stop - a.begin();
}

constexpr std::size_t candidates_per_hash = 16;

std::int64_t pool_pages(const Decoder& decoder, std::int64_t split, std::size_t budget, std::int64_t working) {
  const std::size_t page = KvCache::page_bytes(split, decoder.kv_row_width());
  return working + (page == 0 ? static_cast<std::int64_t>(budget >> 20) : static_cast<std::int64_t>(budget / page));
}

}  // namespace

LowerSequence& LowerSequence::operator=(LowerSequence&& other) noexcept {
  if (this != &other) {
    release();
    store_ = std::exchange(other.store_, nullptr);
    sequence_ = std::move(other.sequence_);
  }
  return *this;
}

void LowerSequence::release() noexcept {
  if (store_ != nullptr) store_->cache_.release(sequence_);
  store_ = nullptr;
}

PrefixStore::PrefixStore(const Decoder& decoder, std::int64_t split, std::size_t budget_bytes, std::int64_t working_pages)
    : decoder_(decoder), split_(split), budget_(budget_bytes),
      cache_(0, split, decoder.kv_row_width(), pool_pages(decoder, split, budget_bytes, working_pages), decoder.device()) {}

std::shared_ptr<PrefixStore::Entry> PrefixStore::find(const Tokens& prompt, std::int64_t& common) {
  common = 0;
  std::shared_ptr<Entry> best;
  const std::vector<std::uint64_t> hashes = page_hashes(prompt);
  for (std::size_t n = hashes.size(); n-- > 0 && best == nullptr;) {
    const auto found = index_.find(hashes[n]);
    if (found == index_.end()) continue;
    for (const std::weak_ptr<Entry>& candidate : found->second) {
      const std::shared_ptr<Entry> entry = candidate.lock();
      if (entry == nullptr) continue;
      const std::int64_t shared = common_prefix(entry->tokens, prompt);
      if (shared > common) {
        common = shared;
        best = entry;
      }
    }
  }
  if (best != nullptr) {
    const auto at = std::find(entries_.begin(), entries_.end(), best);
    entries_.splice(entries_.begin(), entries_, at);
  }
  return best;
}

void PrefixStore::insert(std::shared_ptr<Entry> entry) {
  bytes_ += entry->bytes;
  for (const std::uint64_t hash : page_hashes(entry->tokens)) {
    auto& list = index_[hash];
    std::erase_if(list, [](const std::weak_ptr<Entry>& candidate) { return candidate.expired(); });
    if (list.size() >= candidates_per_hash) list.erase(list.begin());
    list.push_back(entry);
  }
  entries_.push_front(std::move(entry));
  while (bytes_ > budget_ && !entries_.empty()) evict_oldest();
}

void PrefixStore::evict_oldest() {
  const std::shared_ptr<Entry> entry = entries_.back();
  entries_.pop_back();
  bytes_ -= entry->bytes;
  cache_.release(entry->sequence);
}

void PrefixStore::make_room(std::int64_t pages) {
  while (cache_.free_pages() < pages && !entries_.empty()) evict_oldest();
}

PrefixStore::Lower PrefixStore::run(std::span<const Tokens> prompts, bool remember, bool keep_sequences) {
  const std::int64_t width = decoder_.config().width;
  const Device device = decoder_.device();
  std::int64_t total = 0;
  for (const Tokens& prompt : prompts) total += static_cast<std::int64_t>(prompt.size());
  Lower result;
  result.hidden = Tensor::empty({total, width}, DType::f32, device);
  tokens_asked_ += static_cast<std::uint64_t>(total);

  std::int64_t row = 0;
  std::size_t next = 0;
  while (next < prompts.size()) {
    // One chunk: prompts whose new tokens fit one forward pass.
    struct Work {
      std::shared_ptr<Entry> prefix;
      std::int64_t common = 0, row = 0;
      LowerSequence sequence;
    };
    std::vector<Work> chunk;
    std::vector<std::int32_t> ids;
    std::vector<std::int64_t> counts;
    const std::size_t first = next;
    while (next < prompts.size()) {
      Work work;
      const Tokens& prompt = prompts[next];
      work.prefix = find(prompt, work.common);
      const std::int64_t fresh = static_cast<std::int64_t>(prompt.size()) - work.common;
      if (!chunk.empty() && static_cast<std::int64_t>(ids.size()) + fresh > forward_token_budget) break;
      work.sequence = LowerSequence(*this, work.prefix == nullptr ? CachedSequence() : cache_.fork(work.prefix->sequence, work.common));
      ids.insert(ids.end(), prompt.begin() + work.common, prompt.end());
      counts.push_back(fresh);
      work.row = row;
      row += static_cast<std::int64_t>(prompt.size());
      chunk.push_back(std::move(work));
      ++next;
    }
    tokens_computed_ += ids.size();
    std::int64_t pages = 0;
    for (std::size_t i = 0; i < chunk.size(); ++i) pages += cache_.pages_needed(*chunk[i].sequence, counts[i]);
    make_room(pages);
    std::vector<CachedSequence*> sequences;
    for (Work& work : chunk) sequences.push_back(&*work.sequence);

    Tensor fresh_hidden;
    if (!ids.empty()) {
      const TokenContext context = continue_sequences(cache_, sequences, counts, device);
      fresh_hidden = decoder_.blocks(0, split_, decoder_.embed(Tensor::of(ids, {static_cast<std::int64_t>(ids.size())}, device)), context);
    }
    std::int64_t fresh_row = 0;
    for (std::size_t i = 0; i < chunk.size(); ++i) {
      Work& work = chunk[i];
      if (work.common > 0) result.hidden.slice_rows(work.row, work.common).copy_from(work.prefix->hidden.slice_rows(0, work.common));
      if (counts[i] > 0) result.hidden.slice_rows(work.row + work.common, counts[i]).copy_from(fresh_hidden.slice_rows(fresh_row, counts[i]));
      fresh_row += counts[i];
      const auto length = std::ssize(prompts[first + i]);
      // Prompts are found by their whole pages: a shorter one would be kept for nothing, once more at every call.
      if (remember && counts[i] > 0 && length >= attention_block) {
        auto entry = std::make_shared<Entry>();
        entry->tokens = prompts[first + i];
        entry->sequence = cache_.fork(*work.sequence, length);
        entry->hidden = result.hidden.slice_rows(work.row, length).clone();
        entry->bytes = static_cast<std::size_t>(KvCache::pages_for(length)) * KvCache::page_bytes(split_, decoder_.kv_row_width()) + entry->hidden.bytes();
        insert(std::move(entry));
      }
      if (keep_sequences) result.sequences.push_back(std::move(work.sequence));
    }
  }
  return result;
}

Tensor PrefixStore::advance(std::span<CachedSequence* const> sequences, std::span<const std::int32_t> ids) {
  std::int64_t pages = 0;
  for (const CachedSequence* sequence : sequences) pages += cache_.pages_needed(*sequence, 1);
  make_room(pages);
  const std::vector<std::int64_t> ones(sequences.size(), 1);
  const TokenContext context = continue_sequences(cache_, sequences, ones, decoder_.device());
  return decoder_.blocks(0, split_, decoder_.embed(Tensor::of(ids, {static_cast<std::int64_t>(ids.size())}, decoder_.device())), context);
}

}  // namespace expctr
