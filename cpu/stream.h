// Rows of a result that is too large for any cache: each is computed in the first-level cache and copied past the caches, so that lines of
// memory are not read before they are overwritten (8 bytes an element in place of 12 for a map of floats).
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "base/view.h"
#include "cpu/dispatch.h"
#include "cpu/thread_pool.h"

namespace expctr::cpu {

/// Results of at least this many bytes are written past the caches; smaller ones are soon read again, from there.
constexpr std::int64_t streamed_bytes = std::int64_t{64} << 20;

/// to[0 .. n) = from[0 .. n), past the caches; another thread may read it after finish().
inline void store_past_caches(float* to, const float* from, std::int64_t n) {
  std::int64_t i = 0;
  for (; i < n && reinterpret_cast<std::uintptr_t>(to + i) % 32 != 0; ++i) to[i] = from[i];
  for (; i + 8 <= n; i += 8) _mm256_stream_ps(to + i, _mm256_loadu_ps(from + i));
  for (; i < n; ++i) to[i] = from[i];
}
inline void store_past_caches(double* to, const double* from, std::int64_t n) {
  std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(double));
}

/// Where a kernel computes row after row of y [rows, width]: y itself, or a row of thread_scratch (slot 1) that end() copies out.
template <class T>
class RowWriter {
 public:
  explicit RowWriter(const View& y)
      : y_(y.as<T>()),
        width_(y.width()),
        streams_(y.size() * static_cast<std::int64_t>(sizeof(T)) >= streamed_bytes && width_ <= most_width) {}

  /// Elements a piece, for for_rows: long runs of rows where memory is all that counts.
  std::int64_t grain(std::int64_t otherwise = cheap_grain) const { return streams_ ? std::int64_t{1} << 17 : otherwise; }
  T* begin(std::int64_t row) const {
    return streams_ ? reinterpret_cast<T*>(thread_scratch(static_cast<std::size_t>(width_) * sizeof(T), 1).data()) : y_ + row * width_;
  }
  void end(std::int64_t row) const {
    if (streams_) store_past_caches(y_ + row * width_, begin(row), width_);
  }
  /// After the last row of a piece.
  void finish() const {
    if (streams_) _mm_sfence();
  }

 private:
  static constexpr std::int64_t most_width = 8192;  // a wider row leaves the first-level cache before it is copied
  T* y_;
  std::int64_t width_;
  bool streams_;
};

}  // namespace expctr::cpu
