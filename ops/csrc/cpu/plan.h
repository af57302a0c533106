// Which cells the samples of one query read, with which weights: vectorised over the samples.
// Included by kernel_impl.h, inside the namespace of one instruction set.
//
// A sample's four cells are held as a 2 x 2 block that always lies inside its level: at a border
// the block stays inside and the weights follow from the distance. So every sample reads four
// addresses, none of them out of bounds, whatever the coordinates are. Outside (or NaN) all weights
// are 0.
#include "vectors.h"

// Of one query and a group of samples. A block's cells on the right are a row behind those on the
// left, and have no weight in a level one cell wide.
template <typename T>
struct alignas(64) Plan {
  IntOf<T> cell[2][kGroup];  // top left and bottom left, in elements behind the first cell of all
  T weight[4][kGroup];       // of top left, top right, bottom left, bottom right
};

// What backward needs besides: weights of the slots along an axis and their derivatives by the
// coordinate, attention, and the slots' cells times the output's gradient.
template <typename T>
struct alignas(64) BackwardPlan {
  T x[2][kGroup], y[2][kGroup], dx[2][kGroup], dy[2][kGroup];
  T attention[kGroup];
  T dots[4][kGroup];
};

// One axis: the first of the two cells next to a coordinate and the weights of both, which fall
// from 1 on a cell to 0 on its neighbours.
template <typename T>
struct Axis {
  I<T> cell;
  V<T> position, after, end, weight[2];

  // `last`: the highest first cell; `end`: where the second one's weight ends behind it.
  MS_DETR_INLINE Axis(V<T> at, V<T> last, V<T> end_) : end(end_) {
    const V<T> zero = {};
    V<T> inside = at > zero ? at : zero;  // NaN comes to 0
    inside = inside < last ? inside : last;
    cell = __builtin_convertvector(inside, I<T>);
    position = __builtin_convertvector(cell, V<T>);
    after = at - position;
    const V<T> rising[2] = {1 + after, after}, falling[2] = {1 - after, end - after};
    for (int s = 0; s < 2; ++s) {
      const V<T> lower = rising[s] < falling[s] ? rising[s] : falling[s];
      weight[s] = lower > zero ? lower : zero;
    }
  }

  // A weight's derivative by the coordinate; on a cell, to its right.
  MS_DETR_INLINE V<T> slope(int slot) const {
    const V<T> zero = {}, one = zero + 1;
    const V<T> first = slot ? zero : -one, top = slot ? one : zero, last = slot ? end : one;
    const V<T> up_or_down = after < top ? one : -one;
    const V<T> begun = after < first ? zero : up_or_down;
    return after < last ? begun : zero;
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
template <bool kBackward, typename T>
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
  const V<T> x = load(base) + load(scale) * split<0, T>(a, b, LaneNumbers<T>{});
  const V<T> y = load(base + size) + load(scale + size) * split<1, T>(a, b, LaneNumbers<T>{});
  const V<T> attention = load(weights + i);
  const Axis<T> h(x, load(samples.last_column + k), load(samples.end_column + k));
  const Axis<T> v(y, load(samples.last_row + k), load(samples.end_row + k));
  // Exact: a level has fewer than 2^24 cells.
  const I<T> cell =
      __builtin_convertvector(v.position * load(samples.width + k) + h.position, I<T>);
  const I<T> top_left = load_int<T>(samples.start + k) + cell * (IntOf<T>)head.row;
  store_int<T>(plan.cell[0] + k, top_left);
  store_int<T>(plan.cell[1] + k, top_left + load_int<T>(samples.below + k));
  for (int row = 0; row < 2; ++row) {
    const V<T> of_row = attention * v.weight[row];
    for (int s = 0; s < 2; ++s) store(plan.weight[2 * row + s] + k, of_row * h.weight[s]);
  }
  if constexpr (kBackward) {
    store(backward->attention + k, attention);
    for (int s = 0; s < 2; ++s) {
      store(backward->x[s] + k, h.weight[s]);
      store(backward->y[s] + k, v.weight[s]);
      store(backward->dx[s] + k, h.slope(s));
      store(backward->dy[s] + k, v.slope(s));
    }
  }
}

template <bool kWrite, typename T>
MS_DETR_INLINE void prefetch_row(const T* p, int64_t size) {
  for (int64_t k = 0; k < size; k += 64 / (int64_t)sizeof(T)) __builtin_prefetch(p + k, kWrite);
}

// Everything of one query that is read or written once: another query's lies too far away for the
// hardware to see a pattern.
template <bool kBackward, typename T>
MS_DETR_INLINE void prefetch_query(const Head<T, IntOf<T>>& head, int64_t query) {
  prefetch_row<false>(head.inputs + query * head.inputs_stride, 2 * head.count);
  prefetch_row<false>(head.weights + query * head.weights_stride, head.count);
  if constexpr (kBackward) {
    prefetch_row<false>(head.grad_out + query * head.out_stride, head.output_channels);
    prefetch_row<true>(head.grad_inputs + query * head.inputs_stride, 2 * head.count);
    prefetch_row<true>(head.grad_weights + query * head.weights_stride, head.count);
  } else {
    prefetch_row<true>(head.out + query * head.out_stride, head.output_channels);
  }
}

template <bool kBackward, typename T>
MS_DETR_INLINE void make_plan(const Head<T, IntOf<T>>& head, int64_t query, Plan<T>* plans,
                              BackwardPlan<T>* backward, T* copies) {
  const int64_t size = padded(head.count);
  prefetch_query<kBackward, T>(head, query + 4);
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
      plan_vector<kBackward, T>(head, query, g * kGroup + k, k, inputs, weights, plans[g],
                                kBackward ? backward + g : nullptr);
    }
  }
}
