// Vectors of MS_DETR_VECTOR_BYTES and what the kernels do with them, in the compiler's vector
// extensions. Included by plan.h, inside the namespace of one instruction set.

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
