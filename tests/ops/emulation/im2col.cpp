// ms_detr/benchmarks/im2col.cuh on the CPU (device.h).
#include <torch/library.h>
#include <torch/types.h>

#include "device.h"

#define __shared__ static

#include "im2col.cuh"

namespace ms_detr::im2col {
namespace {

using at::Tensor;

constexpr unsigned kBlocks = 3;  // fewer than there is work for: every one takes several turns

std::vector<Tensor> attend(const Tensor& value, const Tensor& shapes, const Tensor& starts,
                           const Tensor& locations, const Tensor& weights, const Tensor& grad) {
  const auto size = [](const Tensor& tensor, int axis) {
    return static_cast<int>(tensor.size(axis));
  };
  const Arguments a{value.const_data_ptr<float>(),
                    shapes.const_data_ptr<int64_t>(),
                    starts.const_data_ptr<int64_t>(),
                    locations.const_data_ptr<float>(),
                    weights.const_data_ptr<float>(),
                    size(value, 1),
                    size(value, 2),
                    size(value, 3),
                    size(locations, 3),
                    size(locations, 1),
                    size(locations, 4)};
  // What is not written stays NaN.
  Tensor out = at::full_like(grad, NAN), grad_value = at::zeros_like(value);
  Tensor grad_locations = at::full_like(locations, NAN), grad_weights = at::full_like(weights, NAN);
  const int count = grad.numel();
  launch({kBlocks, 1, 1}, 64, [&] { forward_kernel(count, a, out.mutable_data_ptr<float>()); });
  launch({kBlocks, 1, 1}, kChannels, [&] {
    backward_kernel(count, a, grad.const_data_ptr<float>(), grad_value.mutable_data_ptr<float>(),
                    grad_locations.mutable_data_ptr<float>(),
                    grad_weights.mutable_data_ptr<float>());
  });
  return {out, grad_value, grad_locations, grad_weights};
}

}  // namespace
}  // namespace ms_detr::im2col

TORCH_LIBRARY(ms_detr_emulated_im2col, m) {
  m.def(
      "attend(Tensor value, Tensor shapes, Tensor starts, Tensor locations, Tensor weights, "
      "Tensor grad) -> Tensor[]",
      &ms_detr::im2col::attend);
}
