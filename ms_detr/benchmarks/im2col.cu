// Host side of im2col.cuh: some images a launch, as many launches as that takes.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

#include "im2col.cuh"

namespace ms_detr::im2col {
namespace {

using at::Tensor;

constexpr int kThreads = 1024;  // of forward

// Calls f(arguments, count, blocks of `threads`, images before) for every launch.
template <typename F>
void launch(const Tensor& value, const Tensor& shapes, const Tensor& starts,
            const Tensor& locations, const Tensor& weights, int64_t step, int threads, const F& f) {
  for (const Tensor& tensor : {value, shapes, starts, locations, weights}) {
    TORCH_CHECK_VALUE(tensor.is_cuda() && tensor.is_contiguous(), "want contiguous CUDA tensors");
  }
  Arguments a{};
  a.shapes = shapes.const_data_ptr<int64_t>();
  a.starts = starts.const_data_ptr<int64_t>();
  a.cells = value.size(1);
  a.heads = value.size(2);
  a.channels = value.size(3);
  a.levels = locations.size(3);
  a.queries = locations.size(1);
  a.points = locations.size(4);
  const int64_t batch = value.size(0);
  step = std::min(step, batch);
  TORCH_CHECK_VALUE(a.channels == kChannels, "want ", kChannels, " channels a head");
  TORCH_CHECK_VALUE(batch && batch % step == 0, "want a multiple of ", step, " images");
  const int count = step * a.queries * a.heads * a.channels;
  for (int64_t image = 0; image < batch; image += step) {
    a.value = value.const_data_ptr<float>() + image * value.stride(0);
    a.locations = locations.const_data_ptr<float>() + image * locations.stride(0);
    a.weights = weights.const_data_ptr<float>() + image * weights.stride(0);
    f(a, count, (count + threads - 1) / threads, image);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

Tensor forward(const Tensor& value, const Tensor& shapes, const Tensor& starts,
               const Tensor& locations, const Tensor& weights, int64_t step) {
  const c10::cuda::CUDAGuard guard(value.device());
  Tensor out =
      at::empty({value.size(0), locations.size(1), value.size(2) * value.size(3)}, value.options());
  launch(value, shapes, starts, locations, weights, step, kThreads,
         [&](const Arguments& a, int count, int blocks, int64_t image) {
           forward_kernel<<<blocks, kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
               count, a, out.mutable_data_ptr<float>() + image * out.stride(0));
         });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad, const Tensor& value,
                                            const Tensor& shapes, const Tensor& starts,
                                            const Tensor& locations, const Tensor& weights,
                                            int64_t step) {
  const c10::cuda::CUDAGuard guard(value.device());
  const Tensor grad_out = grad.contiguous();
  Tensor grad_value = at::zeros_like(value), grad_locations = at::zeros_like(locations),
         grad_weights = at::zeros_like(weights);
  launch(value, shapes, starts, locations, weights, step, kChannels,
         [&](const Arguments& a, int count, int blocks, int64_t image) {
           backward_kernel<<<blocks, kChannels, 0, c10::cuda::getCurrentCUDAStream()>>>(
               count, a, grad_out.const_data_ptr<float>() + image * grad_out.stride(0),
               grad_value.mutable_data_ptr<float>() + image * grad_value.stride(0),
               grad_locations.mutable_data_ptr<float>() + image * grad_locations.stride(0),
               grad_weights.mutable_data_ptr<float>() + image * grad_weights.stride(0));
         });
  return {grad_value, grad_locations, grad_weights};
}

}  // namespace
}  // namespace ms_detr::im2col

TORCH_LIBRARY(ms_detr_im2col, m) {
  m.def(
      "forward(Tensor value, Tensor shapes, Tensor starts, Tensor locations, Tensor weights, "
      "int step) -> Tensor",
      &ms_detr::im2col::forward);
  m.def(
      "backward(Tensor grad, Tensor value, Tensor shapes, Tensor starts, Tensor locations, "
      "Tensor weights, int step) -> (Tensor, Tensor, Tensor)",
      &ms_detr::im2col::backward);
}
