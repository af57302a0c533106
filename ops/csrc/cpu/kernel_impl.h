// Forward and backward of one head (Deformable DETR, arXiv:2010.04159, Eq. 2), on vectors of
// MS_DETR_VECTOR_BYTES. Included by one file for every instruction set, which names MS_DETR_ISA.
//
// Each query takes two or three steps: plan (coordinates, cells, weights of all samples, vectorised
// over the samples), then sums over cells, vectorised over the channels. A sample's four cells are
// held as a 2 x 2 block that always lies inside its level: at a border the weight moves to the slot
// of the cell that exists, the other slot gets 0. So every sample reads four addresses, none of
// them out of bounds, whatever the coordinates are. Outside (or NaN) all weights are 0.
#include <utility>  // integer_sequence: a type, no code

#include "kernel.h"

namespace ms_detr::cpu {
namespace MS_DETR_ISA {
namespace {

#define MS_DETR_INLINE inline __attribute__((always_inline))

template <typename T>
struct Vector;
template <>
struct Vector<float> {
  using Int = int32_t;
};
template <>
struct Vector<double> {
  using Int = int64_t;
};

template <typename T>
using IntOf = typename Vector<T>::Int;

template <typename T>
constexpr int kLanes = MS_DETR_VECTOR_BYTES / sizeof(T);

template <typename T>
struct Types {
  typedef T V __attribute__((vector_size(MS_DETR_VECTOR_BYTES)));
  typedef IntOf<T> I __attribute__((vector_size(MS_DETR_VECTOR_BYTES)));
  // The same in memory: at any element, with a type that may alias.
  typedef T Memory
      __attribute__((vector_size(MS_DETR_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
  typedef IntOf<T> IntMemory
      __attribute__((vector_size(MS_DETR_VECTOR_BYTES), aligned(sizeof(T)), may_alias));
};

template <typename T>
using V = typename Types<T>::V;
template <typename T>
using I = typename Types<T>::I;

template <typename T>
MS_DETR_INLINE V<T> load(const T* p) {
  return *reinterpret_cast<const typename Types<T>::Memory*>(p);
}
template <typename T>
MS_DETR_INLINE void store(T* p, V<T> v) {
  *reinterpret_cast<typename Types<T>::Memory*>(p) = v;
}
template <typename T>
MS_DETR_INLINE I<T> load_int(const IntOf<T>* p) {
  return *reinterpret_cast<const typename Types<T>::IntMemory*>(p);
}
template <typename T>
MS_DETR_INLINE void store_int(IntOf<T>* p, I<T> v) {
  *reinterpret_cast<typename Types<T>::IntMemory*>(p) = v;
}
template <typename T>
MS_DETR_INLINE V<T> broadcast(T x) {
  return x - V<T>{};
}

template <typename T, int... kIndex>
MS_DETR_INLINE V<T> shuffle(V<T> a, V<T> b, std::integer_sequence<int, kIndex...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, kIndex...);
#else
  return __builtin_shuffle(a, b, I<T>{kIndex...});
#endif
}

template <typename T>
using LaneNumbers = std::make_integer_sequence<int, kLanes<T>>;

// x0 y0 x1 y1 ... in two vectors -> all x (kOdd 0) or all y (kOdd 1).
template <int kOdd, typename T, int... k>
MS_DETR_INLINE V<T> split(V<T> a, V<T> b, std::integer_sequence<int, k...>) {
  return shuffle<T>(a, b, std::integer_sequence<int, (2 * k + kOdd)...>{});
}
// The reverse: the first (kHigh 0) or second half of x0 y0 x1 y1 ...
template <int kHigh, typename T, int... k>
MS_DETR_INLINE V<T> zip(V<T> x, V<T> y, std::integer_sequence<int, k...>) {
  constexpr int n = kLanes<T>;
  return shuffle<T>(x, y,
                    std::integer_sequence<int, (kHigh * n / 2 + k / 2 + (k % 2 ? n : 0))...>{});
}
// Lanes without bit kBit of a, the others of b; kSwap: each from the lane across that bit.
template <int kBit, int kSwap, typename T, int... k>
MS_DETR_INLINE V<T> pick(V<T> a, V<T> b, std::integer_sequence<int, k...>) {
  constexpr int n = kLanes<T>;
  return shuffle<T>(a, b,
                    std::integer_sequence<int, ((kSwap ? k ^ kBit : k) + (k & kBit ? n : 0))...>{});
}

// Vectors f(0) ... f(lanes - 1) -> one whose lane i is the sum of the lanes of f(i). Adds halves
// pairwise, depth first, so that few vectors are alive at a time.
template <typename T, int kBit, int kFirst, typename F>
MS_DETR_INLINE V<T> sums(const F& f) {
  if constexpr (kBit == kLanes<T>) {
    return f(kFirst);
  } else {
    const V<T> a = sums<T, 2 * kBit, kFirst>(f);
    const V<T> b = sums<T, 2 * kBit, kFirst + kBit>(f);
    return pick<kBit, 0, T>(a, b, LaneNumbers<T>{}) + pick<kBit, 1, T>(a, b, LaneNumbers<T>{});
  }
}

template <typename T, int kBit = kLanes<T> / 2>
MS_DETR_INLINE T sum_lanes(V<T> v) {
  if constexpr (kBit == 0) {
    return v[0];
  } else {
    return sum_lanes<T, kBit / 2>(v + pick<kBit, 1, T>(v, v, LaneNumbers<T>{}));
  }
}
template <typename T, int kBit = kLanes<T> / 2>
MS_DETR_INLINE T max_lanes(V<T> v) {
  if constexpr (kBit == 0) {
    return v[0];
  } else {
    const V<T> other = pick<kBit, 1, T>(v, v, LaneNumbers<T>{});
    return max_lanes<T, kBit / 2>(v > other ? v : other);
  }
}

// exp(x) for x <= 0; NaN stays NaN.
MS_DETR_INLINE V<float> exp_negative(V<float> x) {
  const V<float> clamped = x < -87.0f ? broadcast(-87.0f) : x;
  const V<float> shifted = clamped * 1.44269504088896341f + 12582912.0f;  // rounds
  const V<float> n = shifted - 12582912.0f;
  const V<float> r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  V<float> p = 1.9875691500e-4f * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const I<float> exponent = ((I<float>)shifted - 0x4B400000) << 23;
  const V<float> scaled = (V<float>)((I<float>)p + exponent);
  return x != x ? x : (x < -87.0f ? V<float>{} : scaled);
}
MS_DETR_INLINE V<double> exp_negative(V<double> x) {
  for (int k = 0; k < kLanes<double>; ++k) x[k] = __builtin_exp(x[k]);
  return x;
}

// What the plan of one query says of a group of samples.
template <typename T>
struct alignas(64) Plan {
  // Of the slots top left, top right, bottom left, bottom right:
  IntOf<T> cell[4][kGroup];  // in elements behind the first cell of all
  T weight[4][kGroup];
};

// What backward needs besides: weights of the slots along an axis and their derivatives by the
// coordinate, attention, and the slots' cells times the output's gradient.
template <typename T>
struct alignas(64) BackwardPlan {
  T x[2][kGroup], y[2][kGroup], dx[2][kGroup], dy[2][kGroup];
  T attention[kGroup];
  T dots[4][kGroup];
};

// One axis: a coordinate in (-1, size) -> block position and weights of its two slots.
template <typename T>
struct Axis {
  V<T> position, weight[2], slope[2];

  MS_DETR_INLINE Axis(V<T> at, V<T> last_with_neighbour, V<T> size) {
    const V<T> zero = {};
    const V<T> one = zero + 1;
    V<T> cell = __builtin_convertvector(__builtin_convertvector(at, I<T>), V<T>);
    cell = cell > at ? cell - 1 : cell;
    const V<T> after = at - cell;
    const V<T> before = 1 - after;
    const I<T> low = cell < 0;
    const I<T> high = cell > size - 2;
    weight[0] = low ? after : (high ? zero : before);
    weight[1] = low ? zero : (high ? before : after);
    slope[0] = low ? one : (high ? zero : -one);
    slope[1] = low ? zero : (high ? -one : one);
    cell = low ? zero : cell;
    position = cell > last_with_neighbour ? last_with_neighbour : cell;
  }
};

// n elements that vectors may read, copied if they end too close to the end of their tensor.
template <typename T>
MS_DETR_INLINE const T* readable(const T* p, const T* end, int64_t n, int64_t used, T* copy) {
  if (p + n <= end) return p;
  for (int64_t k = 0; k < used; ++k) copy[k] = p[k];
  return copy;
}

// Attention weights of one query from its logits; `out` may hold padded(count) of them.
template <typename T>
MS_DETR_INLINE void softmax(const Head<T, IntOf<T>>& head, const T* logits, T* out) {
  constexpr int n = kLanes<T>;
  const int64_t size = padded(head.count);
  const V<T> lowest = broadcast<T>(-__builtin_inf());
  V<T> top = lowest;
  for (int64_t i = 0; i < size; i += n) {
    const I<T> valid = load_int<T>(head.samples[i / kGroup].valid + i % kGroup);
    const V<T> x = valid ? load(logits + i) : lowest;
    top = x > top ? x : top;
    store(out + i, x);
  }
  const T highest = max_lanes<T>(top);
  V<T> total = {};
  for (int64_t i = 0; i < size; i += n) {
    const V<T> e = exp_negative(load(out + i) - highest);
    total += e;
    store(out + i, e);
  }
  const T scale = 1 / sum_lanes<T>(total);
  for (int64_t i = 0; i < size; i += n) store(out + i, load(out + i) * scale);
}

// One vector of samples: from sample k of a group on, sample `i` of the query.
template <typename T>
MS_DETR_INLINE void plan_vector(const Head<T, IntOf<T>>& head, int64_t query, int64_t i, int64_t k,
                                const T* inputs, const T* weights, Plan<T>& plan,
                                BackwardPlan<T>* backward) {
  constexpr int n = kLanes<T>;
  const Samples<T, IntOf<T>>& samples = head.samples[i / kGroup];
  const int64_t size = padded(head.count);
  const T* base = head.base + query * head.base_stride + i;
  const T* scale = head.scale + query * head.scale_stride + i;
  const V<T> a = load(inputs + 2 * i);
  const V<T> b = load(inputs + 2 * i + n);
  V<T> x = load(base) + load(scale) * split<0, T>(a, b, LaneNumbers<T>{});
  V<T> y = load(base + size) + load(scale + size) * split<1, T>(a, b, LaneNumbers<T>{});
  const V<T> width = load(samples.width + k);
  const V<T> height = load(samples.height + k);
  const V<T> zero = {};
  const I<T> inside =
      (x > T(-1)) & (x < width) & (y > T(-1)) & (y < height) & load_int<T>(samples.valid + k);
  x = inside ? x : zero;
  y = inside ? y : zero;
  const V<T> attention = inside ? load(weights + i) : zero;
  const Axis<T> h(x, load(samples.last_column + k), width);
  const Axis<T> v(y, load(samples.last_row + k), height);
  // Exact: a level has fewer than 2^24 cells.
  const I<T> cell = __builtin_convertvector(v.position * width + h.position, I<T>);
  const I<T> top_left = load_int<T>(samples.start + k) + cell * (IntOf<T>)head.row;
  const I<T> right = load_int<T>(samples.right + k), below = load_int<T>(samples.below + k);
  store_int<T>(plan.cell[0] + k, top_left);
  store_int<T>(plan.cell[1] + k, top_left + right);
  store_int<T>(plan.cell[2] + k, top_left + below);
  store_int<T>(plan.cell[3] + k, top_left + below + right);
  for (int s = 0; s < 4; ++s) {
    store(plan.weight[s] + k, attention * v.weight[s / 2] * h.weight[s % 2]);
  }
  if (backward) {
    store(backward->attention + k, head.softmax ? load(weights + i) : attention);
    for (int s = 0; s < 2; ++s) {
      store(backward->x[s] + k, inside ? h.weight[s] : zero);
      store(backward->y[s] + k, inside ? v.weight[s] : zero);
      store(backward->dx[s] + k, h.slope[s]);
      store(backward->dy[s] + k, v.slope[s]);
    }
  }
}

template <bool kBackward, typename T>
MS_DETR_INLINE void make_plan(const Head<T, IntOf<T>>& head, int64_t query, Plan<T>* plans,
                              BackwardPlan<T>* backward, T* copies) {
  const int64_t size = padded(head.count);
  // What lies a few queries ahead: too far apart for the hardware to see a pattern.
  const int64_t ahead = query + 4;
  __builtin_prefetch(head.inputs + ahead * head.inputs_stride);
  __builtin_prefetch(head.inputs + ahead * head.inputs_stride + 64 / sizeof(T));
  __builtin_prefetch(head.weights + ahead * head.weights_stride);
  const T* inputs = readable(head.inputs + query * head.inputs_stride, head.inputs_end, 2 * size,
                             2 * head.count, copies);
  const T* weights = readable(head.weights + query * head.weights_stride, head.weights_end, size,
                              head.count, copies + 2 * size);
  if (head.softmax) {
    softmax<T>(head, weights, copies + 2 * size);
    weights = copies + 2 * size;
  }
  for (int64_t g = 0; g < size / kGroup; ++g) {
    for (int64_t k = 0; k < kGroup; k += kLanes<T>) {
      plan_vector<T>(head, query, g * kGroup + k, k, inputs, weights, plans[g],
                     kBackward ? backward + g : nullptr);
    }
  }
}

// Samples of group g that are not padding.
template <typename T>
MS_DETR_INLINE int64_t group_size(const Head<T, IntOf<T>>& head, int64_t g) {
  const int64_t left = head.count - g * kGroup;
  return left < kGroup ? left : kGroup;
}

template <typename T>
MS_DETR_INLINE void prefetch(const Head<T, IntOf<T>>& head, const Plan<T>* plans, const T* cells) {
  for (int64_t g = 0; g * kGroup < head.count; ++g) {
    const int64_t size = group_size(head, g);
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t c = 0; c < head.output_channels; c += 64 / (int64_t)sizeof(T)) {
        for (int s = 0; s < 4; ++s) __builtin_prefetch(cells + plans[g].cell[s][i] + c);
      }
    }
  }
}

// Lane i of v in all lanes. From a register, where AVX has one instruction for it: gathering is
// bound by loads.
template <typename T>
MS_DETR_INLINE V<T> lane(const T* p, [[maybe_unused]] V<T> v, [[maybe_unused]] I<T> i) {
#if MS_DETR_VECTOR_BYTES >= 32 && !defined(__clang__)
  if constexpr (sizeof(T) == 4) return __builtin_shuffle(v, i);
#endif
  return broadcast(*p);
}

// out[0 : kCount vectors] = weighted sum of the cells. Several sums side by side hide the latency
// of the additions.
template <int kCount, typename T>
MS_DETR_INLINE void gather(const Head<T, IntOf<T>>& head, const Plan<T>* plans, const T* value,
                           T* out) {
  constexpr int n = kLanes<T>;
  constexpr int kSums = kCount * 4 * MS_DETR_VECTOR_BYTES <= 8 * 64 ? 4 : 2;
  V<T> sum[kSums][kCount] = {};
  for (int64_t first = 0; first < head.count; first += n) {
    const Plan<T>& plan = plans[first / kGroup];
    const int64_t start = first % kGroup;
    const int64_t size = head.count - first < n ? head.count - first : n;
    V<T> weights[4];
    for (int s = 0; s < 4; ++s) weights[s] = load(plan.weight[s] + start);
    I<T> at = {};
    for (int64_t i = start; i < start + size; ++i, at += 1) {
      for (int s = 0; s < 4; ++s) {
        const T* p = value + plan.cell[s][i];
        const V<T> w = lane<T>(plan.weight[s] + i, weights[s], at);
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
MS_DETR_INLINE void dot(const Head<T, IntOf<T>>& head, const Plan<T>* plans, const T* value,
                        const T* grad, BackwardPlan<T>* backward, bool add) {
  constexpr int n = kLanes<T>;
  V<T> gradient[kCount];
  for (int k = 0; k < kCount; ++k) gradient[k] = load(grad + k * n);
  for (int64_t first = 0; first < head.count; first += n) {
    const Plan<T>& plan = plans[first / kGroup];
    BackwardPlan<T>& target = backward[first / kGroup];
    const int64_t start = first % kGroup;
    for (int s = 0; s < 4; ++s) {
      const auto products = [&](int i) __attribute__((always_inline)) {
        const T* p = value + plan.cell[s][start + i];
        V<T> sum = gradient[0] * load(p);
        for (int k = 1; k < kCount; ++k) sum += gradient[k] * load(p + k * n);
        return sum;
      };
      const V<T> result = sums<T, 1, 0>(products);
      store(target.dots[s] + start, add ? load(target.dots[s] + start) + result : result);
    }
  }
}

// The cells' gradients. Neighbouring samples of one level often share cells, and a sum that was
// just stored is slow to be read again: the order goes from level to level.
template <int kCount, typename T>
MS_DETR_INLINE void scatter(const Head<T, IntOf<T>>& head, const Plan<T>* plans, const T* grad,
                            T* grad_value) {
  constexpr int n = kLanes<T>;
  // Copies, for the compiler can't know that the stores below leave these alone.
  const int64_t count = head.count;
  const uint32_t* order = head.scatter_order;
  V<T> gradient[kCount];
  for (int k = 0; k < kCount; ++k) gradient[k] = load(grad + k * n);
  for (int64_t j = 0; j < count; ++j) {
    const Plan<T>& plan = plans[order[j] / kGroup];
    const uint32_t i = order[j] % kGroup;
    T* const p4[4] = {grad_value + plan.cell[0][i], grad_value + plan.cell[1][i],
                      grad_value + plan.cell[2][i], grad_value + plan.cell[3][i]};
    for (int s = 0; s < 4; ++s) {
      const T w = plan.weight[s][i];
      T* p = p4[s];
      for (int k = 0; k < kCount; ++k) store(p + k * n, load(p + k * n) + w * gradient[k]);
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
      if (head.prefetch) prefetch<T>(head, next, head.value);
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

template <typename T>
MS_DETR_INLINE void backward(const Head<T, IntOf<T>>& head, int64_t first, int64_t last,
                             T* workspace) {
  const int64_t size = padded(head.count), groups = size / kGroup;
  Plan<T>* plans = reinterpret_cast<Plan<T>*>(workspace);
  BackwardPlan<T>* backward_plans = reinterpret_cast<BackwardPlan<T>*>(plans + groups);
  T* copies = reinterpret_cast<T*>(backward_plans + groups);
  T* row = copies + 3 * size;
  for (int64_t c = 0; c < head.channels; ++c) row[c] = 0;
  for (int64_t query = first; query < last; ++query) {
    make_plan<true, T>(head, query, plans, backward_plans, copies);
    if (head.prefetch) prefetch<T>(head, plans, head.value);
    const T* grad = head.grad_out + query * head.out_stride;
    if (head.channels != head.output_channels) {
      for (int64_t c = 0; c < head.output_channels; ++c) row[c] = grad[c];
      grad = row;
    }
    for_blocks<T>(head.channels, [&](auto count, int64_t c) __attribute__((always_inline)) {
      dot<decltype(count)::value, T>(head, plans, head.value + c, grad + c, backward_plans, c > 0);
    });
    for_blocks<T>(head.channels, [&](auto count, int64_t c) __attribute__((always_inline)) {
      scatter<decltype(count)::value, T>(head, plans, grad + c, head.grad_value + c);
    });
    store_gradients<T>(head, query, backward_plans, copies);
  }
}

void forward_f32(const HeadF& head, int64_t first, int64_t last, float* workspace) {
  forward<float>(head, first, last, workspace);
}
void forward_f64(const HeadD& head, int64_t first, int64_t last, double* workspace) {
  forward<double>(head, first, last, workspace);
}
void backward_f32(const HeadF& head, int64_t first, int64_t last, float* workspace) {
  backward<float>(head, first, last, workspace);
}
void backward_f64(const HeadD& head, int64_t first, int64_t last, double* workspace) {
  backward<double>(head, first, last, workspace);
}

}  // namespace
}  // namespace MS_DETR_ISA
}  // namespace ms_detr::cpu
