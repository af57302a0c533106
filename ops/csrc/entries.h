// The schemas' functions in terms of two that a device brings: with a reference (fused) or without.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <tuple>

namespace ms_detr {

using Gradients = std::tuple<at::Tensor, at::Tensor, at::Tensor>;  // of value, inputs, weights
using Attend = at::Tensor(const at::Tensor& value, at::IntArrayRef level_shapes,
                          const at::Tensor* reference, const at::Tensor& inputs,
                          const at::Tensor& weights);
using AttendBackward = Gradients(const at::Tensor& grad, const at::Tensor& value,
                                 at::IntArrayRef level_shapes, const at::Tensor* reference,
                                 const at::Tensor& inputs, const at::Tensor& weights);

template <Attend kAttend, AttendBackward kBackward>
struct Entries {
  using Tensor = at::Tensor;
  using Shapes = at::IntArrayRef;

  static Tensor plain(const Tensor& value, Shapes shapes, const Tensor& locations,
                      const Tensor& weights) {
    return kAttend(value, shapes, nullptr, locations, weights);
  }
  static Gradients plain_backward(const Tensor& grad, const Tensor& value, Shapes shapes,
                                  const Tensor& locations, const Tensor& weights) {
    return kBackward(grad, value, shapes, nullptr, locations, weights);
  }
  static Tensor fused(const Tensor& value, Shapes shapes, const Tensor& reference,
                      const Tensor& offsets, const Tensor& logits) {
    return kAttend(value, shapes, &reference, offsets, logits);
  }
  static Gradients fused_backward(const Tensor& grad, const Tensor& value, Shapes shapes,
                                  const Tensor& reference, const Tensor& offsets,
                                  const Tensor& logits) {
    return kBackward(grad, value, shapes, &reference, offsets, logits);
  }

  static void add_to(torch::Library& library) {
    library.impl("deformable_attention", &plain);
    library.impl("deformable_attention_backward", &plain_backward);
    library.impl("fused_deformable_attention", &fused);
    library.impl("fused_deformable_attention_backward", &fused_backward);
  }
};

}  // namespace ms_detr
