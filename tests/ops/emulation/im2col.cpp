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

Arguments arguments(const Tensor& value, const Tensor& shapes, const Tensor& starts,
                    const Tensor& locations, const Tensor& weights) {
  const auto size = [](const Tensor& tensor, int axis) {
    return static_cast<int>(tensor.size(axis));
  };
  return {value.const_data_ptr<float>(),
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
}

// What is not written stays NaN; all images are one launch.
Tensor forward(const Tensor& value, const Tensor& shapes, const Tensor& starts,
               const Tensor& locations, const Tensor& weights, int64_t step) {
  const Arguments a = arguments(value, shapes, starts, locations, weights);
  Tensor out = at::full({value.size(0), a.queries, a.heads * a.channels}, NAN, value.options());
  const int count = out.numel();
  launch({kBlocks, 1, 1}, 64, [&] { forward_kernel(count, a, out.mutable_data_ptr<float>()); });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& value,
                                            const Tensor& shapes, const Tensor& starts,
                                            const Tensor& locations, const Tensor& weights,
                                            int64_t step) {
  const Arguments a = arguments(value, shapes, starts, locations, weights);
  Tensor grad_value = at::zeros_like(value);
  Tensor grad_locations = at::full_like(locations, NAN), grad_weights = at::full_like(weights, NAN);
  const int count = grad.numel();
  launch({kBlocks, 1, 1}, kChannels, [&] {
    backward_kernel(count, a, grad.const_data_ptr<float>(), grad_value.mutable_data_ptr<float>(),
                    grad_locations.mutable_data_ptr<float>(),
                    grad_weights.mutable_data_ptr<float>());
  });
  return {grad_value, grad_locations, grad_weights};
}

}  // namespace
}  // namespace ms_detr::im2col

// Schemas as in im2col.cu.
TORCH_LIBRARY(ms_detr_emulated_im2col, m) {
  m.def(
      "forward(Tensor value, Tensor shapes, Tensor starts, Tensor locations, Tensor weights, "
      "int step) -> Tensor",
      &ms_detr::im2col::forward);
  m.def(
      "backward(Tensor grad, Tensor value, Tensor shapes, Tensor starts, Tensor locations, "
      "Tensor weights, int step) -> (Tensor, Tensor, Tensor)",
      &ms_detr::im2col::backward);
}
