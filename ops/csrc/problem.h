// Sizes of a call, checked: what the kernels rely on so as never to leave their tensors. Python
// checks the same with friendlier words before; this holds for whoever calls the operator itself.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>

namespace ms_detr {

struct Problem {
  int64_t batch, cells, heads, channels, queries, levels, points;

  int64_t samples() const { return levels * points; }
};

// `per_sample` is (B, Q, heads, levels, points, 2), `weights` (B, Q, heads, levels, points).
inline Problem check(const at::Tensor& value, at::IntArrayRef level_shapes,
                     const at::Tensor& per_sample, const at::Tensor& weights) {
  TORCH_CHECK_VALUE(value.dim() == 4, "value must be (B, S, heads, channels)");
  TORCH_CHECK_VALUE(per_sample.dim() == 6 && per_sample.size(5) == 2,
                    "locations or offsets must be (B, Q, heads, levels, points, 2)");
  const Problem p{value.size(0),      value.size(1),      value.size(2),     value.size(3),
                  per_sample.size(1), per_sample.size(3), per_sample.size(4)};
  TORCH_CHECK_VALUE(per_sample.size(0) == p.batch && per_sample.size(2) == p.heads,
                    "locations or offsets have another batch or number of heads than value");
  TORCH_CHECK_VALUE(weights.sizes() == per_sample.sizes().slice(0, 5),
                    "weights or logits must be (B, Q, heads, levels, points)");
  TORCH_CHECK_VALUE(static_cast<int64_t>(level_shapes.size()) == 2 * p.levels,
                    "level_shapes must hold (height, width) of every level");
  int64_t cells = 0;
  for (int64_t level = 0; level < p.levels; ++level) {
    const int64_t height = level_shapes[2 * level], width = level_shapes[2 * level + 1];
    TORCH_CHECK_VALUE(height > 0 && width > 0, "a level's height and width must be positive");
    // By division: a product could overflow.
    TORCH_CHECK_VALUE(height <= p.cells / width && cells + height * width <= p.cells,
                      "level_shapes have more cells than the ", p.cells, " of value");
    cells += height * width;
  }
  TORCH_CHECK_VALUE(cells == p.cells, "level_shapes have ", cells, " cells, value has ", p.cells);
  TORCH_CHECK_TYPE(value.is_floating_point(), "value must be floating point");
  for (const at::Tensor& other : {per_sample, weights}) {
    TORCH_CHECK_TYPE(other.is_floating_point(),
                     "locations, offsets, weights and logits must be floating point");
    TORCH_CHECK_VALUE(other.device() == value.device(), "all tensors must be on one device");
  }
  return p;
}

inline void check_reference(const Problem& p, const at::Tensor& value,
                            const at::Tensor& reference) {
  TORCH_CHECK_VALUE(reference.dim() == 4 && reference.size(0) == p.batch &&
                        reference.size(1) == p.queries && reference.size(2) == p.levels &&
                        (reference.size(3) == 2 || reference.size(3) == 4),
                    "reference must be (B, Q, levels, 2) or (B, Q, levels, 4)");
  TORCH_CHECK_VALUE(reference.device() == value.device(), "all tensors must be on one device");
}

inline void check_grad(const Problem& p, const at::Tensor& value, const at::Tensor& grad) {
  const std::array<int64_t, 3> shape{p.batch, p.queries, p.heads * p.channels};
  TORCH_CHECK_VALUE(grad.sizes() == at::IntArrayRef(shape),
                    "grad must be (B, Q, heads * channels)");
  TORCH_CHECK_VALUE(grad.device() == value.device(), "all tensors must be on one device");
}

}  // namespace ms_detr
