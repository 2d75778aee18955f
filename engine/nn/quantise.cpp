#include "engine/nn/quantise.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "engine/ops/elementwise.h"
#include "engine/ops/embedding.h"
#include "engine/ops/reduce.h"

namespace expctr {

Tensor chosen_distances(const Tensor& x, const Tensor& codebook, const Tensor& ids) {
  require_rank("chosen_distances", "x", x, 2);
  require_shape("chosen_distances", "ids", ids, {x.dim(0)}, "one code a row");
  return sum(unary(Unary::square, subtract(x, gather(codebook, ids))), 1);
}

Tensor straight_through(const Tensor& z_e, const Tensor& z_q) {
  require_shape("straight_through", "z_q", z_q, z_e.shape());
  return add(z_e, subtract(z_q.detached(), z_e.detached()));
}

std::vector<std::int32_t> unique_codes(std::span<const std::int32_t> candidates, std::int64_t concepts, std::int64_t k) {
  const std::int64_t entity = concepts * k, n = static_cast<std::int64_t>(candidates.size());
  if (concepts < 1 || k < 1 || n % entity != 0) {
    throw ShapeError(fmt::format("unique_codes: {} candidates for {} concepts with {} each", n, concepts, k),
                     "pass [entities, concepts, k] candidates");
  }
  std::vector<std::int32_t> codes;
  codes.reserve(static_cast<std::size_t>(n / k));
  for (std::int64_t first = 0; first < n; first += entity) {
    const auto taken = codes.end() - codes.begin();
    for (std::int64_t concept_index = 0; concept_index < concepts; ++concept_index) {
      const auto list = candidates.subspan(static_cast<std::size_t>(first + concept_index * k), static_cast<std::size_t>(k));
      const auto free = std::find_if(list.begin(), list.end(), [&](std::int32_t code) {
        return code >= 0 && std::find(codes.begin() + taken, codes.end(), code) == codes.end();
      });
      if (free == list.end()) {
        throw ShapeError(
            fmt::format("unique_codes: concept {} of entity {} has no free code among its {} nearest", concept_index, first / entity, k),
            "ask nearest() for as many codes as there are concepts");
      }
      codes.push_back(*free);
    }
  }
  return codes;
}

}  // namespace expctr
