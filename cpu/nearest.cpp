// Nearest codes: the codebook passes in chunks, each packed once for all rows; a task multiplies a tile of rows with the chunk in register
// tiles and puts the products that beat a row's k-th best into its sorted list. 2 rows codes width operations, bound by the multiply-add
// units; the lists cost little, because a block of products is skipped unless its least one is good enough.
#include "base/kernels/nearest.h"

#include <algorithm>
#include <limits>

#include "cpu/arguments.h"
#include "cpu/dispatch.h"
#include "cpu/run.h"
#include "cpu/step_product.h"

namespace expctr::cpu {
namespace {

constexpr std::int64_t chunk_codes = 512, tile_rows = 48, skip_block = 16;

std::int64_t chunk_of(const NearestCodes& args) { return std::min(chunk_codes, args.codebook.shape[0]); }

/// Puts `score` into the ascending list; equal scores stay in the order of arrival.
template <class T>
void insert(T score, std::int32_t index, std::int64_t k, T* scores, std::int32_t* indices) {
  std::int64_t place = k - 1;
  for (; place > 0 && score < scores[place - 1]; --place) {
    scores[place] = scores[place - 1];
    indices[place] = indices[place - 1];
  }
  scores[place] = score;
  indices[place] = index;
}

template <class T>
void search_row(const T* products, const T* norms, std::int64_t codes, std::int64_t first, std::int64_t k, T* scores,
                std::int32_t* indices) {
  for (std::int64_t block = 0; block < codes; block += skip_block) {
    const std::int64_t count = std::min(skip_block, codes - block);
    T found[skip_block], least = std::numeric_limits<T>::infinity();
    for (std::int64_t i = 0; i < count; ++i) {
      found[i] = norms[block + i] - T(2) * products[block + i];
      least = found[i] < least ? found[i] : least;
    }
    if (!(least < scores[k - 1])) continue;
    for (std::int64_t i = 0; i < count; ++i)
      if (found[i] < scores[k - 1]) insert(found[i], static_cast<std::int32_t>(first + block + i), k, scores, indices);
  }
}

template <class T>
T squared_length(const T* row, std::int64_t width) {
  return static_cast<T>(lane_sum<T>(width, [&](std::int64_t i) { return row[i] * row[i]; }));
}

template <class T>
void search(const NearestCodes& args) {
  const std::int64_t rows = args.x.shape[0], width = args.x.shape[1], codes = args.codebook.shape[0], k = args.indices.shape[1],
                     chunk = chunk_of(args);
  const T *x = args.x.as<const T>(), *codebook = args.codebook.as<const T>();
  T *norms = args.scratch.as<T>(), *packed = norms + chunk, *scores = args.distances.as<T>();
  std::int32_t* indices = args.indices.as<std::int32_t>();
  std::fill_n(scores, rows * k, std::numeric_limits<T>::infinity());
  std::fill_n(indices, rows * k, -1);
  for (std::int64_t first = 0; first < codes; first += chunk) {
    const std::int64_t count = std::min(chunk, codes - first);
    const T* part = codebook + first * width;
    for_rows(count, width, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) norms[i] = squared_length(part + i * width, width);
    });
    const StepProduct<T> product(part, 1, width, width, count, packed);
    parallel_for((rows + tile_rows - 1) / tile_rows, 1, [&](std::int64_t begin, std::int64_t end) {
      T* products = reinterpret_cast<T*>(
          thread_scratch(static_cast<std::size_t>(tile_rows * count + StepProduct<T>::row_scratch(tile_rows, width)) * sizeof(T)).data());
      for (std::int64_t tile = begin; tile < end; ++tile) {
        const std::int64_t row0 = tile * tile_rows, tile_count = std::min(tile_rows, rows - row0);
        product.multiply(tile_count, x + row0 * width, products, false, products + tile_rows * count);
        for (std::int64_t r = 0; r < tile_count; ++r)
          search_row(products + r * count, norms, count, first, k, scores + (row0 + r) * k, indices + (row0 + r) * k);
      }
    });
  }
  for_rows(rows, width, cheap_grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const T length = squared_length(x + r * width, width);
      for (std::int64_t i = r * k; i < (r + 1) * k; ++i) {
        const T distance = scores[i] + length;
        scores[i] = distance < T(0) ? T(0) : distance;
      }
    }
  });
}

}  // namespace

/// Squared lengths of a chunk of codes, and the chunk packed.
template <>
std::size_t scratch_bytes(const NearestCodes& args) {
  std::size_t bytes = 0;
  with_floating(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    bytes = static_cast<std::size_t>(chunk_of(args) + StepProduct<T>::packed_elements(args.codebook.width(), chunk_of(args))) * sizeof(T);
  });
  return bytes;
}

template <>
void run(const NearestCodes& args, Stream) {
  require_floating("nearest", {{"x", args.x}, {"codebook", args.codebook}, {"distances", args.distances}});
  require(args.x.rank == 2 && args.codebook.rank == 2 && args.x.shape[1] == args.codebook.shape[1], "nearest",
          "x must be [rows, width] and codebook [codes, width]", {{"x", args.x}, {"codebook", args.codebook}});
  require(args.indices.rank == 2 && args.indices.shape[0] == args.x.shape[0] && same_shape(args.indices, args.distances) &&
              args.indices.dtype == DType::i32 && present(args.indices),
          "nearest", "indices (i32) and distances must be [rows, k]",
          {{"x", args.x}, {"indices", args.indices}, {"distances", args.distances}});
  require(args.indices.shape[1] >= 1 && args.indices.shape[1] <= std::min<std::int64_t>(most_nearest, args.codebook.shape[0]), "nearest",
          "k must lie between 1 and the number of codes, at most 64", {{"codebook", args.codebook}, {"indices", args.indices}});
  require_scratch("nearest", args.scratch, scratch_bytes(args));
  if (args.x.shape[0] == 0) return;
  with_floating(args.x.dtype, [&](auto zero) { search<decltype(zero)>(args); });
}

}  // namespace expctr::cpu
