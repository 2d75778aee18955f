// Vector quantisation: composites around ops/nearest.h.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/core/tensor.h"

namespace expctr {

/// Squared distances to chosen codes: ||x[r] - codebook[ids[r]]||^2; x [rows, width], codebook [codes, width], ids [rows] i32 -> [rows].
/// Gradients reach x and the chosen rows of the codebook.
Tensor chosen_distances(const Tensor& x, const Tensor& codebook, const Tensor& ids);

/// The value of z_q, the gradient to z_e: z_e + (z_q - z_e) with the bracket constant. Same shapes.   Source: van den Oord et al. 2017.
Tensor straight_through(const Tensor& z_e, const Tensor& z_q);

/// Different codes for the concepts of an entity, greedily: concept 0 takes its nearest code, every later one its nearest that no earlier
/// one has. candidates: indices of ops/nearest.h, [entities, concepts, k], nearest first; k >= concepts is always enough, because at most
/// `concepts`
/// - 1 codes are taken. Returns [entities, concepts]. Throws ShapeError when a concept runs out of candidates.   Source: FACE, section 3
/// (d).
std::vector<std::int32_t> unique_codes(std::span<const std::int32_t> candidates, std::int64_t concepts, std::int64_t k);

}  // namespace expctr
