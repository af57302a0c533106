// ops/csrc/cuda/kernels.cuh on the CPU (device.h).
#include <torch/library.h>
#include <torch/types.h>

#include "device.h"

#define __shared__
#ifdef EMULATED_ARCH
#define __CUDA_ARCH__ EMULATED_ARCH
#endif

#include "kernels.cuh"

namespace ms_detr::cuda {

alignas(16) unsigned char memory[1 << 20];  // shared memory

namespace {

using at::Tensor;

constexpr unsigned kThreads = 64;  // of a block: two warps

template <typename T, int kVec, int kLanes>
void run(const Arguments<T>& a, int64_t batch, bool backward) {
  const unsigned groups = kThreads / kLanes;
  const auto blocks = static_cast<unsigned>((a.queries + groups - 1) / groups);
  launch({blocks, static_cast<unsigned>(a.heads), static_cast<unsigned>(batch)}, kThreads, [&] {
    if (backward) {
      backward_kernel<T, kVec, kLanes>(a);
    } else {
      forward_kernel<T, kVec, kLanes>(a);
    }
  });
}

// As in deformable_attention.cu.
template <typename T>
void choose(const Arguments<T>& a, int64_t batch, bool backward) {
  if constexpr (!std::is_same_v<T, double>) {
    constexpr int kVec = 16 / sizeof(T);
    if (a.channels == 16) return run<T, kVec, 16 / kVec>(a, batch, backward);
    if (a.channels == 32) return run<T, kVec, 32 / kVec>(a, batch, backward);
    if (a.channels == 64) return run<T, kVec, 64 / kVec>(a, batch, backward);
  }
  run<T, 1, 32>(a, batch, backward);
}

template <typename T>
std::vector<Tensor> attend(const Tensor& value, at::IntArrayRef shapes,
                           const std::optional<Tensor>& reference, const Tensor& inputs,
                           const Tensor& weights, const Tensor& grad) {
  using A = AccumulateType<T>;
  Arguments<T> a{};
  a.cells = value.size(1);
  a.heads = value.size(2);
  a.channels = value.size(3);
  a.queries = inputs.size(1);
  a.levels = inputs.size(3);
  a.points = inputs.size(4);
  a.box_unit = A(0.5) / a.points;
  int start = 0;
  for (int level = 0; level < a.levels; ++level) {
    a.height[level] = shapes[2 * level];
    a.width[level] = shapes[2 * level + 1];
    a.start[level] = start;
    start += a.height[level] * a.width[level];
  }
  a.value = value.const_data_ptr<T>();
  if (reference) {
    a.reference = reference->const_data_ptr<A>();
    a.terms = reference->size(3);
  }
  a.inputs = inputs.const_data_ptr<A>();
  a.weights = weights.const_data_ptr<A>();
  // What is not written stays NaN.
  Tensor out = at::full({value.size(0), a.queries, a.heads * a.channels}, NAN, value.options());
  Tensor grad_value = at::zeros(value.sizes(), inputs.options());
  Tensor grad_inputs = at::full_like(inputs, NAN), grad_weights = at::full_like(weights, NAN);
  a.out = out.mutable_data_ptr<T>();
  choose(a, value.size(0), false);
  a.grad_out = grad.const_data_ptr<T>();
  a.grad_value = grad_value.mutable_data_ptr<A>();
  a.grad_inputs = grad_inputs.mutable_data_ptr<A>();
  a.grad_weights = grad_weights.mutable_data_ptr<A>();
  choose(a, value.size(0), true);
  return {out, grad_value, grad_inputs, grad_weights};
}

std::vector<Tensor> attend_any(const Tensor& value, at::IntArrayRef shapes,
                               const std::optional<Tensor>& reference, const Tensor& inputs,
                               const Tensor& weights, const Tensor& grad) {
  switch (value.scalar_type()) {
    case at::kDouble:
      return attend<double>(value, shapes, reference, inputs, weights, grad);
    case at::kFloat:
      return attend<float>(value, shapes, reference, inputs, weights, grad);
    case at::kHalf:
      return attend<c10::Half>(value, shapes, reference, inputs, weights, grad);
    default:
      return attend<c10::BFloat16>(value, shapes, reference, inputs, weights, grad);
  }
}

}  // namespace
}  // namespace ms_detr::cuda

#define REGISTER(name, m) TORCH_LIBRARY(name, m)  // name is a macro

REGISTER(LIBRARY, m) {
  m.def(
      "attend(Tensor value, int[] shapes, Tensor? reference, Tensor inputs, Tensor weights, "
      "Tensor grad) -> Tensor[]",
      &ms_detr::cuda::attend_any);
}
