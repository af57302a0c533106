// The operator on CUDA: which kernel runs on which launch. Light headers only: a toolkit without
// cuBLAS, cuSPARSE and cuSOLVER is enough to build.
#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <limits>

#include "../entries.h"
#include "../problem.h"
#include "kernels.cuh"

namespace ms_detr::cuda {
namespace {

using at::IntArrayRef;
using at::Tensor;

constexpr int64_t kSharedBytes = 48 * 1024;  // every GPU has it without asking

// A kernel's layout: enough lanes of 16 bytes for the channels, or a warp that takes one by one.
template <typename T, int kVec_, int kLanes_>
struct Layout {
  static constexpr int kVec = kVec_;
  static constexpr int kLanes = kLanes_;

  // A warp is the least; sized for backward, so that it never fails where forward did not.
  static bool fits(const Arguments<T>& a) {
    return 32 / kLanes * group_bytes(a, true) <= kSharedBytes;
  }

  static void run(const Arguments<T>& a, int64_t batch, bool backward) {
    TORCH_CHECK_VALUE(fits(a), "levels * points is ", a.levels * a.points,
                      ", too many for the CUDA kernel");
    int threads = 256;
    while (threads > 32 && threads / kLanes * group_bytes(a, backward) > kSharedBytes) threads /= 2;
    const int64_t groups = threads / kLanes, bytes = groups * group_bytes(a, backward);
    const dim3 grid((a.queries + groups - 1) / groups, a.heads, batch);
    const auto stream = c10::cuda::getCurrentCUDAStream();
    if (backward) {
      backward_kernel<T, kVec, kLanes><<<grid, threads, bytes, stream>>>(a);
    } else {
      forward_kernel<T, kVec, kLanes><<<grid, threads, bytes, stream>>>(a);
    }
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }

 private:
  static int64_t group_bytes(const Arguments<T>& a, bool backward) {
    return shared_bytes<AccumulateType<T>>(a.levels * a.points, backward);
  }
};

// Runs the layout for `kChannels` where it serves this call.
template <typename T, int kChannels>
bool run_fast(const Arguments<T>& a, int64_t batch, bool backward) {
  constexpr int kVec = 16 / sizeof(T);
  using Fast = Layout<T, kVec, kChannels / kVec>;
  if (a.channels != kChannels || !Fast::fits(a)) return false;
  Fast::run(a, batch, backward);
  return true;
}

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

template <typename T>
void run(const Arguments<T>& a, int64_t batch, bool backward) {
  if constexpr (!std::is_same_v<T, double>) {
    if (aligned(a.value) && aligned(backward ? a.grad_out : a.out)) {
      if (run_fast<T, 16>(a, batch, backward) || run_fast<T, 32>(a, batch, backward) ||
          run_fast<T, 64>(a, batch, backward)) {
        return;
      }
    }
  }
  Layout<T, 1, 32>::run(a, batch, backward);
}

// The tensors of a call in the dtypes that the kernels read.
struct Inputs {
  Tensor value, reference, inputs, weights;
};

Inputs prepare(const Tensor& value, const Tensor* reference, const Tensor& inputs,
               const Tensor& weights) {
  const auto type = value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return {value.contiguous(), reference ? reference->to(type).contiguous() : Tensor(),
          inputs.to(type).contiguous(), weights.to(type).contiguous()};
}

template <typename T>
Arguments<T> arguments(const Problem& p, IntArrayRef level_shapes, const Inputs& tensors) {
  using A = AccumulateType<T>;
  Arguments<T> a{};
  a.cells = p.cells;
  a.heads = p.heads;
  a.channels = p.channels;
  a.queries = p.queries;
  a.levels = p.levels;
  a.points = p.points;
  a.box_unit = A(0.5) / p.points;
  int64_t start = 0;
  for (int64_t level = 0; level < p.levels; ++level) {
    a.height[level] = level_shapes[2 * level];
    a.width[level] = level_shapes[2 * level + 1];
    a.start[level] = start;
    start += level_shapes[2 * level] * level_shapes[2 * level + 1];
  }
  a.value = tensors.value.const_data_ptr<T>();
  if (tensors.reference.defined()) {
    a.reference = tensors.reference.const_data_ptr<A>();
    a.terms = tensors.reference.size(3);
  }
  a.inputs = tensors.inputs.const_data_ptr<A>();
  a.weights = tensors.weights.const_data_ptr<A>();
  return a;
}

Problem check_all(const Tensor& value, IntArrayRef level_shapes, const Tensor* reference,
                  const Tensor& inputs, const Tensor& weights) {
  const Problem p = check(value, level_shapes, inputs, weights);
  if (reference) check_reference(p, value, *reference);
  TORCH_CHECK_VALUE(p.levels <= kMaxLevels, "the CUDA kernel knows at most ", kMaxLevels,
                    " levels, got ", p.levels);
  TORCH_CHECK_VALUE(p.batch < 65536 && p.heads < 65536,
                    "batch or heads are too many for the CUDA kernel");
  TORCH_CHECK_VALUE(p.queries <= std::numeric_limits<int32_t>::max(),
                    "queries are too many for the CUDA kernel");
  // Its bytes are counted in 32 bits, and those of its gradient, which is float32 at least.
  const int64_t bytes = value.scalar_type() == at::kDouble ? sizeof(double) : sizeof(float);
  TORCH_CHECK_VALUE(p.cells * p.heads * p.channels <= std::numeric_limits<uint32_t>::max() / bytes,
                    "an image with ", p.cells, " cells is too large for the CUDA kernel");
  return p;
}

// Calls f(T{}) for the dtype of value.
template <typename F>
auto dispatch(at::ScalarType type, const F& f) {
  switch (type) {
    case at::kDouble:
      return f(double{});
    case at::kFloat:
      return f(float{});
    case at::kHalf:
      return f(c10::Half{});
    case at::kBFloat16:
      return f(c10::BFloat16{});
    default:
      TORCH_CHECK_VALUE(false, "value must be float16, bfloat16, float32 or float64");
  }
}

Tensor attend(const Tensor& value, IntArrayRef level_shapes, const Tensor* reference,
              const Tensor& inputs, const Tensor& weights) {
  const Problem p = check_all(value, level_shapes, reference, inputs, weights);
  const c10::cuda::CUDAGuard guard(value.device());
  Tensor out = at::empty({p.batch, p.queries, p.heads * p.channels}, value.options());
  if (!out.numel()) return out;
  if (!p.samples()) return out.zero_();
  const Inputs tensors = prepare(value, reference, inputs, weights);
  dispatch(value.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    Arguments<T> a = arguments<T>(p, level_shapes, tensors);
    a.out = out.mutable_data_ptr<T>();
    run(a, p.batch, false);
  });
  return out;
}

Gradients attend_backward(const Tensor& grad, const Tensor& value, IntArrayRef level_shapes,
                          const Tensor* reference, const Tensor& inputs, const Tensor& weights) {
  const Problem p = check_all(value, level_shapes, reference, inputs, weights);
  check_grad(p, value, grad);
  // Atomic additions come in any order.
  at::globalContext().alertNotDeterministic("the backward pass of ms_detr's deformable attention");
  const c10::cuda::CUDAGuard guard(value.device());
  const Inputs tensors = prepare(value, reference, inputs, weights);
  Tensor grad_value = at::zeros(value.sizes(), tensors.inputs.options());
  Tensor grad_inputs = at::empty_like(tensors.inputs);
  Tensor grad_weights = at::empty_like(tensors.weights);
  if (!grad.numel() || !p.samples()) {
    grad_inputs.zero_();
    grad_weights.zero_();
  } else {
    const Tensor g = grad.to(value.scalar_type()).contiguous();
    dispatch(value.scalar_type(), [&](auto zero) {
      using T = decltype(zero);
      using A = AccumulateType<T>;
      Arguments<T> a = arguments<T>(p, level_shapes, tensors);
      a.grad_out = g.const_data_ptr<T>();
      a.grad_value = grad_value.mutable_data_ptr<A>();
      a.grad_inputs = grad_inputs.mutable_data_ptr<A>();
      a.grad_weights = grad_weights.mutable_data_ptr<A>();
      run(a, p.batch, true);
    });
  }
  return {grad_value.to(value.scalar_type()), grad_inputs.to(inputs.scalar_type()),
          grad_weights.to(weights.scalar_type())};
}

}  // namespace
}  // namespace ms_detr::cuda

TORCH_LIBRARY_IMPL(ms_detr, CUDA, m) {
  using namespace ms_detr::cuda;
  ms_detr::Entries<attend, attend_backward>::add_to(m);
}
