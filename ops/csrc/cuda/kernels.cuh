// Forward and backward on the GPU (Deformable DETR, arXiv:2010.04159, Eq. 2). Some neighbouring
// lanes of a warp, a "group", serve one query and head: first they split the samples (softmax,
// coordinates, weights: once, into shared memory), then the channels, 16 bytes a lane.
//
// As on the CPU, a sample's four cells are a 2 x 2 block that always lies inside its level: at a
// border the weight moves to the slot of the cell that exists and the other slot gets 0. So nothing
// is read out of bounds, and no lane takes another branch than its neighbours.
#pragma once

#include <cstdint>
#include <type_traits>

namespace ms_detr::cuda {

constexpr int kMaxLevels = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

template <typename T>
using AccumulateType = std::conditional_t<std::is_same_v<T, double>, double, float>;

// One call. Tensors are contiguous; shapes as in library.cpp.
template <typename T>
struct Arguments {
  using A = AccumulateType<T>;
  int cells, heads, channels, queries, levels, points;
  int height[kMaxLevels], width[kMaxLevels], start[kMaxLevels];
  const T* value;
  const A* reference;  // (B, Q, levels, terms), or null: inputs are locations, weights attention
  int terms;
  A box_unit;  // what an offset of 1 is in a box: 0.5 / points
  const A* inputs;
  const A* weights;
  T* out;
  // Backward.
  const T* grad_out;
  A* grad_value;  // zero at first, added to
  A* grad_inputs;
  A* grad_weights;
};

template <typename T, int kVec>
struct alignas(sizeof(T) * kVec) Pack {
  T values[kVec];
};

template <typename T, int kVec>
__device__ inline void load(const T* from, AccumulateType<T>* to) {
  Pack<T, kVec> pack;
  if constexpr (sizeof(pack) == 16) {
    *reinterpret_cast<uint4*>(&pack) = __ldg(reinterpret_cast<const uint4*>(from));
  } else {
    pack = *reinterpret_cast<const Pack<T, kVec>*>(from);
  }
#pragma unroll
  for (int k = 0; k < kVec; ++k) to[k] = static_cast<AccumulateType<T>>(pack.values[k]);
}

// How many of a lane's kVec channels one addition takes.
template <typename A, int kVec>
__host__ __device__ constexpr int add_width() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  return 1;
#else
  return std::is_same_v<A, float> && kVec % 4 == 0 ? 4 : 1;
#endif
}

template <int kWidth, typename A>
__device__ inline void add(A* to, const A* values) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (kWidth == 4) {
    // atomicAdd would ask for the old values, too. No "memory" clobber: nothing reads this here,
    // and what does not depend on it may go ahead.
    asm volatile(
        "red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
        "f"(values[0]), "f"(values[1]), "f"(values[2]), "f"(values[3]));
  } else
#endif
  {
#pragma unroll
    for (int k = 0; k < kWidth; ++k) atomicAdd(to + k, values[k]);
  }
}

template <typename T>
__device__ inline T* behind(T* base, unsigned bytes) {
  using Byte = std::conditional_t<std::is_const_v<T>, const unsigned char, unsigned char>;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(base) + bytes);
}

// Reductions over the lanes of a group.
template <int kLanes, typename A>
__device__ inline A group_sum(A x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}
template <int kLanes, typename A>
__device__ inline A group_max(A x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    const A other = __shfl_xor_sync(kAllLanes, x, step);
    x = other > x ? other : x;
  }
  return x;
}

// Sums four values over the lanes of a group and stores them, side by side. Lanes hand each other
// half of their values at first, so that fewer than four full reductions are exchanged.
template <int kLanes, typename A>
__device__ inline void store_sums(const A (&values)[4], int lane, bool add, A* to) {
  const bool odd = lane & 1;
  A half[2];  // of an even lane: values 0 and 2, of an odd one: 1 and 3
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const A mine = odd ? values[2 * k + 1] : values[2 * k];
    half[k] = mine + __shfl_xor_sync(kAllLanes, odd ? values[2 * k] : values[2 * k + 1], 1);
  }
  if constexpr (kLanes == 2) {
#pragma unroll
    for (int k = 0; k < 2; ++k) to[2 * k + odd] = half[k] + (add ? to[2 * k + odd] : A(0));
  } else {
    const bool high = lane & 2;
    const A mine = high ? half[1] : half[0];
    A sum = mine + __shfl_xor_sync(kAllLanes, high ? half[0] : half[1], 2);  // of value lane % 4
#pragma unroll
    for (int step = 4; step < kLanes; step *= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
    if (lane < 4) to[lane] = sum + (add ? to[lane] : A(0));
  }
}

// One axis of a sample: position of its two slots, their weights, derivatives by the coordinate.
template <typename A>
struct Axis {
  int position;
  A weight[2], slope[2];

  __device__ Axis(A at, int size, bool inside) {
    at = inside ? at : A(0);
    const int cell = static_cast<int>(floor(at));
    const A after = at - cell, before = 1 - after;
    const bool low = cell<0, high = cell> size - 2;
    weight[0] = inside ? (low ? after : (high ? A(0) : before)) : A(0);
    weight[1] = inside ? (low ? A(0) : (high ? before : after)) : A(0);
    slope[0] = low ? A(1) : (high ? A(0) : A(-1));
    slope[1] = low ? A(0) : (high ? A(-1) : A(1));
    const int last = size > 2 ? size - 2 : 0;
    position = low ? 0 : (cell > last ? last : cell);
  }
};

// Sample `index` of one query and head.
template <typename A>
struct Location {
  A scale_x, scale_y;  // pixels a unit of input
  int cell, right, below;
  Axis<A> x, y;

  template <typename T>
  __device__ static Location of(const Arguments<T>& a, const A* inputs, const A* reference,
                                int index) {
    const int level = static_cast<unsigned>(index) / a.points;
    const int height = a.height[level], width = a.width[level];
    A scale_x = width, scale_y = height, base_x = A(-0.5), base_y = A(-0.5);
    if (reference) {
      const A* r = reference + level * a.terms;
      base_x += r[0] * scale_x;
      base_y += r[1] * scale_y;
      scale_x = a.terms == 4 ? a.box_unit * r[2] * scale_x : A(1);
      scale_y = a.terms == 4 ? a.box_unit * r[3] * scale_y : A(1);
    }
    const A px = base_x + scale_x * inputs[2 * index];
    const A py = base_y + scale_y * inputs[2 * index + 1];
    const bool inside = px > -1 && px < width && py > -1 && py < height;  // false for NaN
    const Axis<A> x(px, width, inside), y(py, height, inside);
    return {scale_x,
            scale_y,
            a.start[level] + y.position * width + x.position,
            width > 1 ? 1 : 0,
            height > 1 ? width : 0,
            x,
            y};
  }
};

// What all lanes of a group need of a sample.
template <typename A>
struct alignas(16) Sample {
  unsigned cell[4];  // bytes behind the head's first cell: offsets that need no multiplication
  A weight[4];
};

// Which query and head a group serves, and its samples.
template <typename T, int kLanes>
struct Group {
  using A = AccumulateType<T>;
  int lane, slot;  // lane in the group, group in the block
  int samples;
  bool active;  // others follow along, for the warp's sake, and write nothing
  int64_t row;  // of (image, query, head)
  int64_t value_offset;
  const A *inputs, *weights, *reference;
  A top = 0, scale = 1;  // of the softmax

  __device__ explicit Group(const Arguments<T>& a) {
    lane = threadIdx.x % kLanes;
    slot = threadIdx.x / kLanes;
    samples = a.levels * a.points;
    const int64_t image = blockIdx.z;
    const int first = blockIdx.x * (blockDim.x / kLanes);
    active = slot < a.queries - first;
    const int64_t query = image * a.queries + (active ? first + slot : a.queries - 1);
    row = query * a.heads + blockIdx.y;
    value_offset = (image * a.cells * a.heads + blockIdx.y) * a.channels;
    inputs = a.inputs + row * samples * 2;
    weights = a.weights + row * samples;
    reference = a.reference ? a.reference + query * a.levels * a.terms : nullptr;
  }

  // To be multiplied by `scale`.
  __device__ A attention(int i) const { return reference ? exp(weights[i] - top) : weights[i]; }

  // The lanes split the samples and write down what the channels' loop needs. What the softmax
  // divides by is known afterwards.
  __device__ void prepare(const Arguments<T>& a, Sample<A>* shared) {
    if (reference) {
      top = weights[0];
#pragma unroll 1
      for (int i = lane; i < samples; i += kLanes) top = weights[i] > top ? weights[i] : top;
      top = group_max<kLanes>(top);
    }
    const unsigned bytes = a.heads * a.channels * sizeof(T);  // of a cell
    A total = 0;
#pragma unroll 1
    for (int i = lane; i < samples; i += kLanes) {
      const auto at = Location<A>::of(a, inputs, reference, i);
      const A w = attention(i);
      total += w;
      Sample<A> s;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        s.cell[k] = (at.cell + (k % 2) * at.right + (k / 2) * at.below) * bytes;
        const A corner = at.x.weight[k % 2] * at.y.weight[k / 2];
        s.weight[k] = corner == 0 ? A(0) : w * corner;
      }
      shared[i] = s;
    }
    if (reference) scale = 1 / group_sum<kLanes>(total);
    __syncwarp();
  }
};

// Of a group. 16 bytes stay empty: with a multiple of 128, the groups of a warp, which read their
// samples in step, would all read from the same banks.
template <typename A>
__host__ __device__ inline int64_t shared_bytes(int64_t samples, bool backward) {
  return samples * (sizeof(Sample<A>) + (backward ? 4 * sizeof(A) : 0)) + 16;
}

// A group takes kLanes * kVec channels at a time. Layouts of several a lane serve just as many, and
// the compiler is to know: their loops run once.
template <typename T, int kVec, int kLanes>
__device__ inline int channels_of(const Arguments<T>& a) {
  return kVec > 1 ? kLanes * kVec : a.channels;
}

template <typename T, int kVec, int kLanes>
__global__ void forward_kernel(const __grid_constant__ Arguments<T> a) {
  using A = AccumulateType<T>;
  extern __shared__ __align__(16) unsigned char memory[];
  Group<T, kLanes> group(a);
  Sample<A>* samples =
      reinterpret_cast<Sample<A>*>(memory + group.slot * shared_bytes<A>(group.samples, false));
  group.prepare(a, samples);
  const int channels = channels_of<T, kVec, kLanes>(a);
  for (int c = group.lane * kVec; c < channels; c += kLanes * kVec) {
    const T* value = a.value + group.value_offset + c;
    A sum[kVec] = {};
#pragma unroll 4
    for (int i = 0; i < group.samples; ++i) {
      const Sample<A> s = samples[i];
      A v[4][kVec];
#pragma unroll
      for (int k = 0; k < 4; ++k) load<T, kVec>(behind(value, s.cell[k]), v[k]);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
#pragma unroll
        for (int j = 0; j < kVec; ++j) sum[j] += s.weight[k] * v[k][j];
      }
    }
    if (group.active) {
      Pack<T, kVec> pack;
#pragma unroll
      for (int j = 0; j < kVec; ++j) pack.values[j] = static_cast<T>(group.scale * sum[j]);
      *reinterpret_cast<Pack<T, kVec>*>(a.out + group.row * channels + c) = pack;
    }
  }
}

template <typename T, int kVec, int kLanes>
__global__ void backward_kernel(const __grid_constant__ Arguments<T> a) {
  using A = AccumulateType<T>;
  extern __shared__ __align__(16) unsigned char memory[];
  Group<T, kLanes> group(a);
  unsigned char* own = memory + group.slot * shared_bytes<A>(group.samples, true);
  Sample<A>* samples = reinterpret_cast<Sample<A>*>(own);
  A* dots = reinterpret_cast<A*>(samples + group.samples);  // (samples, 4)
  group.prepare(a, samples);
  const int channels = channels_of<T, kVec, kLanes>(a);
  // All lanes take as many rounds as the first one, for the reductions need all of them.
  for (int first = 0; first < channels; first += kLanes * kVec) {
    const int c = first + group.lane * kVec;
    const bool has_channels = c < channels, adds = group.active && has_channels;
    const T* value = a.value + group.value_offset + (has_channels ? c : 0);
    // A lane adds to other channels than it reads, so that what the lanes add at once lies side by
    // side: the L2 cache adds 32 bytes at a time, and four scattered floats cost four times that.
    constexpr int kWidth = add_width<A, kVec>();
    const int to = first + group.lane * kWidth;
    A* grad_value = a.grad_value + group.value_offset + to;
    A g[kVec] = {}, added[kVec] = {};
    if (has_channels) {
      const T* grad_out = a.grad_out + group.row * channels;
      load<T, kVec>(grad_out + c, g);
#pragma unroll
      for (int j = 0; j < kVec; j += kWidth) {
        load<T, kWidth>(grad_out + to + j * kLanes, added + j);
      }
    }
#pragma unroll
    for (int j = 0; j < kVec; ++j) added[j] *= group.scale;
    for (int i = 0; i < group.samples; ++i) {
      const Sample<A> s = samples[i];
      A v[4][kVec], dot[4] = {};
#pragma unroll
      for (int k = 0; k < 4; ++k) load<T, kVec>(behind(value, s.cell[k]), v[k]);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
#pragma unroll
        for (int j = 0; j < kVec; ++j) dot[k] += g[j] * v[k][j];
      }
      store_sums<kLanes>(dot, group.lane, first > 0, dots + 4 * i);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (adds && s.weight[k] != 0) {
          A product[kVec];
#pragma unroll
          for (int j = 0; j < kVec; ++j) product[j] = s.weight[k] * added[j];
          A* cell = behind(grad_value, s.cell[k] * (sizeof(A) / sizeof(T)));
#pragma unroll
          for (int j = 0; j < kVec; j += kWidth) add<kWidth>(cell + j * kLanes, product + j);
        }
      }
    }
  }
  __syncwarp();
  // The lanes split the samples again.
  A total = 0;
#pragma unroll 1
  for (int i = group.lane; i < group.samples; i += kLanes) {
    const auto at = Location<A>::of(a, group.inputs, group.reference, i);
    const A attention = group.attention(i) * group.scale;
    const A* d = dots + 4 * i;
    A by_column[2], by_row[2];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      by_column[k] = at.y.weight[0] * d[k] + at.y.weight[1] * d[2 + k];
      by_row[k] = at.x.weight[0] * d[2 * k] + at.x.weight[1] * d[2 * k + 1];
    }
    const A sampled = at.x.weight[0] * by_column[0] + at.x.weight[1] * by_column[1];
    total += attention * sampled;
    if (group.active) {
      const A slope_x = at.x.slope[0] * by_column[0] + at.x.slope[1] * by_column[1];
      const A slope_y = at.y.slope[0] * by_row[0] + at.y.slope[1] * by_row[1];
      reinterpret_cast<Pack<A, 2>*>(a.grad_inputs)[group.row * group.samples + i] = {
          {at.scale_x * attention * slope_x, at.scale_y * attention * slope_y}};
      if (!group.reference) a.grad_weights[group.row * group.samples + i] = sampled;
    }
    dots[4 * i] = sampled;  // only this lane reads it again
  }
  if (group.reference) {  // through the softmax
    total = group_sum<kLanes>(total);
#pragma unroll 1
    for (int i = group.lane; i < group.samples; i += kLanes) {
      if (group.active) {
        a.grad_weights[group.row * group.samples + i] =
            group.attention(i) * group.scale * (dots[4 * i] - total);
      }
    }
  }
}

}  // namespace ms_detr::cuda
