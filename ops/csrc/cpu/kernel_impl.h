// Forward and backward of one head (Deformable DETR, arXiv:2010.04159, Eq. 2), on vectors of
// MS_DETR_VECTOR_BYTES. Included by one file for every instruction set, which names MS_DETR_ISA.
//
// Each query takes two or three steps: a plan of its samples (plan.h), then sums over the cells,
// vectorised over the channels. Backward takes a tile of queries through one step after the other,
// so that values and their gradients do not drive each other out of the cache.
#include <utility>  // integer_sequence: a type, no code

#include "kernel.h"

namespace ms_detr::cpu {
namespace MS_DETR_ISA {
namespace {

#include "plan.h"

// Samples of group g that are not padding.
template <typename T>
MS_DETR_INLINE int64_t group_size(const Head<T, IntOf<T>>& head, int64_t g) {
  const int64_t left = head.count - g * kGroup;
  return left < kGroup ? left : kGroup;
}

// The cell of a slot (see Plan) of sample i, where `row` elements lie between neighbours.
template <typename P, typename T>
MS_DETR_INLINE P cell_of(P cells, const Plan<T>& plan, int slot, int64_t i, int64_t row) {
  return cells + plan.cell[slot / 2][i] + slot % 2 * row;
}

// A pointer that the compiler takes as it is: it would add up its parts again for every cell.
template <typename T>
MS_DETR_INLINE T* summed(T* p) {
  __asm__("" : "+r"(p));
  return p;
}

template <bool kWrite, typename T>
MS_DETR_INLINE void prefetch_cells(const Head<T, IntOf<T>>& head, const Plan<T>* plans,
                                   const T* cells) {
  for (int64_t g = 0; g * kGroup < head.count; ++g) {
    const int64_t size = group_size(head, g);
    for (int64_t i = 0; i < size; ++i) {
      for (int s = 0; s < 4; ++s) {
        prefetch_row<kWrite>(cell_of(cells, plans[g], s, i, head.row), head.output_channels);
      }
    }
  }
}

// out[0 : kCount vectors] = weighted sum of the cells. Several sums side by side hide the latency
// of the additions.
template <int kCount, typename T>
MS_DETR_INLINE void gather(const Head<T, IntOf<T>>& head, const Plan<T>* plans, const T* cells,
                           T* out) {
  constexpr int n = kLanes<T>;
  constexpr int kSums = kCount * 4 * MS_DETR_VECTOR_BYTES <= 8 * 64 ? 4 : 2;
  const T* value = summed(cells);
  const int64_t row = head.row;
  V<T> sum[kSums][kCount] = {};
  for (int64_t g = 0; g * kGroup < head.count; ++g) {
    const int64_t size = group_size(head, g);
    for (int64_t i = 0; i < size; ++i) {
      for (int s = 0; s < 4; ++s) {
        const T* p = cell_of(value, plans[g], s, i, row);
        const V<T> w = broadcast(plans[g].weight[s][i]);
        for (int k = 0; k < kCount; ++k) sum[s % kSums][k] += w * load(p + k * n);
      }
    }
  }
  for (int k = 0; k < kCount; ++k) {
    V<T> total = sum[0][k] + sum[1][k];
    if constexpr (kSums == 4) total += sum[2][k] + sum[3][k];
    store(out + k * n, total);
  }
}

// dots (+)= cells in the samples' slots . grad, over kCount vectors of channels.
template <int kCount, typename T>
MS_DETR_INLINE void dot(const Head<T, IntOf<T>>& head, const Plan<T>* plans, const T* cells,
                        const T* grad, BackwardPlan<T>* backward, bool add) {
  constexpr int n = kLanes<T>;
  const T* value = summed(cells);
  const int64_t row = head.row;
  V<T> gradient[kCount];
  for (int k = 0; k < kCount; ++k) gradient[k] = load(grad + k * n);
  for (int64_t first = 0; first < head.count; first += n) {
    const Plan<T>& plan = plans[first / kGroup];
    BackwardPlan<T>& target = backward[first / kGroup];
    const int64_t start = first % kGroup;
    for (int s = 0; s < 4; ++s) {
      const auto products = [&](int i) __attribute__((always_inline)) {
        const T* p = cell_of(value, plan, s, start + i, row);
        V<T> sum = gradient[0] * load(p);
        for (int k = 1; k < kCount; ++k) sum += gradient[k] * load(p + k * n);
        return sum;
      };
      const V<T> result = sums<T, 1, 0>(products);
      store(target.dots[s] + start, add ? load(target.dots[s] + start) + result : result);
    }
  }
}

// The cells' gradients by one sample of `queries` queries, whose plans lie `groups` apart.
template <int kCount, typename T>
MS_DETR_INLINE void scatter(const Plan<T>* plans, int64_t groups, int64_t i, const T* grad,
                            int64_t grad_stride, int64_t queries, T* cells, int64_t row) {
  constexpr int n = kLanes<T>;
  T* grad_value = summed(cells);
  for (int64_t q = 0; q < queries; ++q, grad += grad_stride) {
    const Plan<T>& plan = plans[q * groups];
    V<T> gradient[kCount];
    for (int k = 0; k < kCount; ++k) gradient[k] = load(grad + k * n);
    // All before the stores, of which the compiler can't know that they leave the plan alone.
    T* p[4];
    for (int s = 0; s < 4; ++s) p[s] = cell_of(grad_value, plan, s, i, row);
    for (int s = 0; s < 4; ++s) {
      const T w = plan.weight[s][i];
      for (int k = 0; k < kCount; ++k) store(p[s] + k * n, load(p[s] + k * n) + w * gradient[k]);
    }
  }
}

// Calls f with blocks of 4, 2 and 1 vectors that cover the channels.
template <typename T, typename F>
MS_DETR_INLINE void for_blocks(int64_t channels, const F& f) {
  constexpr int n = kLanes<T>;
  int64_t c = 0;
  for (; c + 4 * n <= channels; c += 4 * n) f(std::integral_constant<int, 4>{}, c);
  if (c + 2 * n <= channels) {
    f(std::integral_constant<int, 2>{}, c);
    c += 2 * n;
  }
  if (c < channels) f(std::integral_constant<int, 1>{}, c);
}

template <typename T>
MS_DETR_INLINE void forward(const Head<T, IntOf<T>>& head, int64_t first, int64_t last,
                            T* workspace) {
  const int64_t size = padded(head.count), groups = size / kGroup;
  Plan<T>* plans[2] = {reinterpret_cast<Plan<T>*>(workspace),
                       reinterpret_cast<Plan<T>*>(workspace) + groups};
  T* copies = reinterpret_cast<T*>(plans[1] + groups);
  T* row = copies + 3 * size;
  if (first < last) make_plan<false, T>(head, first, plans[first % 2], nullptr, copies);
  for (int64_t query = first; query < last; ++query) {
    if (query + 1 < last) {
      Plan<T>* next = plans[(query + 1) % 2];
      make_plan<false, T>(head, query + 1, next, nullptr, copies);
      if (head.prefetch) prefetch_cells<false, T>(head, next, head.value);
    }
    T* out = head.out + query * head.out_stride;
    T* target = head.channels == head.output_channels ? out : row;
    for_blocks<T>(head.channels, [&](auto count, int64_t c) __attribute__((always_inline)) {
      gather<decltype(count)::value, T>(head, plans[query % 2], head.value + c, target + c);
    });
    if (target != out) {
      for (int64_t c = 0; c < head.output_channels; ++c) out[c] = row[c];
    }
  }
}

// Gradients of inputs and weights from the dots; `copies` takes what is longer than the target.
template <typename T>
MS_DETR_INLINE void store_gradients(const Head<T, IntOf<T>>& head, int64_t query,
                                    const BackwardPlan<T>* plans, T* copies) {
  constexpr int n = kLanes<T>;
  const int64_t size = padded(head.count);
  const bool whole = head.count == size;
  const T* scale = head.scale + query * head.scale_stride;
  T* grad_inputs = head.grad_inputs + query * head.inputs_stride;
  T* grad_weights = head.grad_weights + query * head.weights_stride;
  T* inputs = whole ? grad_inputs : copies;
  T* weights = whole ? grad_weights : copies + 2 * size;
  V<T> total = {};
  for (int64_t i = 0; i < size; i += n) {
    const BackwardPlan<T>& plan = plans[i / kGroup];
    const int64_t at = i % kGroup;
    V<T> by_column[2], by_row[2];
    for (int k = 0; k < 2; ++k) {
      by_column[k] = load(plan.y[0] + at) * load(plan.dots[k] + at) +
                     load(plan.y[1] + at) * load(plan.dots[2 + k] + at);
      by_row[k] = load(plan.x[0] + at) * load(plan.dots[2 * k] + at) +
                  load(plan.x[1] + at) * load(plan.dots[2 * k + 1] + at);
    }
    const V<T> attention = load(plan.attention + at);
    const V<T> x = load(scale + i) * attention *
                   (load(plan.dx[0] + at) * by_column[0] + load(plan.dx[1] + at) * by_column[1]);
    const V<T> y = load(scale + size + i) * attention *
                   (load(plan.dy[0] + at) * by_row[0] + load(plan.dy[1] + at) * by_row[1]);
    store(inputs + 2 * i, zip<0, T>(x, y, LaneNumbers<T>{}));
    store(inputs + 2 * i + n, zip<1, T>(x, y, LaneNumbers<T>{}));
    const V<T> sampled = load(plan.x[0] + at) * by_column[0] + load(plan.x[1] + at) * by_column[1];
    // The padding's dots were never written.
    const I<T> valid = load_int<T>(head.samples[i / kGroup].valid + at);
    total += valid ? attention * sampled : V<T>{};
    store(weights + i, sampled);
  }
  if (head.softmax) {
    const T mean = sum_lanes<T>(total);
    for (int64_t i = 0; i < size; i += n) {
      const V<T> attention = load(plans[i / kGroup].attention + i % kGroup);
      store(weights + i, attention * (load(weights + i) - mean));
    }
  }
  if (!whole) {
    for (int64_t k = 0; k < 2 * head.count; ++k) grad_inputs[k] = inputs[k];
    for (int64_t k = 0; k < head.count; ++k) grad_weights[k] = weights[k];
  }
}

// Of the queries `first` to `last`, kTile at most.
template <typename T>
MS_DETR_INLINE void backward_tile(const Head<T, IntOf<T>>& head, int64_t first, int64_t last,
                                  T* workspace) {
  const int64_t size = padded(head.count), groups = size / kGroup;
  Plan<T>* plans = reinterpret_cast<Plan<T>*>(workspace);
  BackwardPlan<T>* backward_plans = reinterpret_cast<BackwardPlan<T>*>(plans + kTile * groups);
  T* copies = reinterpret_cast<T*>(backward_plans + groups);
  const T* grad = head.grad_out + first * head.out_stride;
  int64_t grad_stride = head.out_stride;
  if (head.channels != head.output_channels) {
    T* rows = copies + 3 * size;
    for (int64_t q = 0; q < last - first; ++q) {
      for (int64_t c = 0; c < head.channels; ++c) {
        rows[q * head.channels + c] = c < head.output_channels ? grad[q * grad_stride + c] : 0;
      }
    }
    grad = rows;
    grad_stride = head.channels;
  }
  for (int64_t query = first; query < last; ++query) {
    Plan<T>* plan = plans + (query - first) * groups;
    make_plan<true, T>(head, query, plan, backward_plans, copies);
    if (head.prefetch) {
      prefetch_cells<false, T>(head, plan, head.value);
      prefetch_cells<true, T>(head, plan, head.grad_value);
    }
    for_blocks<T>(head.channels, [&](auto count, int64_t c) __attribute__((always_inline)) {
      dot<decltype(count)::value, T>(head, plan, head.value + c,
                                     grad + (query - first) * grad_stride + c, backward_plans,
                                     c > 0);
    });
    store_gradients<T>(head, query, backward_plans, copies);
  }
  for_blocks<T>(head.channels, [&](auto count, int64_t c) __attribute__((always_inline)) {
    for (int64_t i = 0; i < head.count; ++i) {
      scatter<decltype(count)::value, T>(plans + i / kGroup, groups, i % kGroup, grad + c,
                                         grad_stride, last - first, head.grad_value + c, head.row);
    }
  });
}

template <typename T>
MS_DETR_INLINE void backward(const Head<T, IntOf<T>>& head, int64_t first, int64_t last,
                             T* workspace) {
  for (int64_t query = first; query < last; query += kTile) {
    backward_tile<T>(head, query, query + kTile < last ? query + kTile : last, workspace);
  }
}

// Calls f with a copy of the head, in which the usual sizes are constants for the compiler: one
// group of samples, heads of 16, 32 or 64 channels.
template <typename H, typename F>
MS_DETR_INLINE void with_constants(H head, const F& f) {
  if (head.count != kGroup || head.channels != head.output_channels) return f(head);
  head.count = kGroup;
  const auto of_channels = [&](auto channels) __attribute__((always_inline)) {
    head.channels = head.output_channels = channels;
    f(head);
  };
  switch (head.channels) {
    case 16:
      return of_channels(std::integral_constant<int, 16>{});
    case 32:
      return of_channels(std::integral_constant<int, 32>{});
    case 64:
      return of_channels(std::integral_constant<int, 64>{});
    default:
      return f(head);
  }
}

void forward_f32(const HeadF& head, int64_t first, int64_t last, float* workspace) {
  with_constants(head, [&](const HeadF& h) __attribute__((always_inline)) {
    forward<float>(h, first, last, workspace);
  });
}
void forward_f64(const HeadD& head, int64_t first, int64_t last, double* workspace) {
  with_constants(head, [&](const HeadD& h) __attribute__((always_inline)) {
    forward<double>(h, first, last, workspace);
  });
}
void backward_f32(const HeadF& head, int64_t first, int64_t last, float* workspace) {
  with_constants(head, [&](const HeadF& h) __attribute__((always_inline)) {
    backward<float>(h, first, last, workspace);
  });
}
void backward_f64(const HeadD& head, int64_t first, int64_t last, double* workspace) {
  with_constants(head, [&](const HeadD& h) __attribute__((always_inline)) {
    backward<double>(h, first, last, workspace);
  });
}

}  // namespace
}  // namespace MS_DETR_ISA
}  // namespace ms_detr::cpu
