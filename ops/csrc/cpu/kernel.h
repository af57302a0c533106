// What the CPU kernels do and on which data; implemented in kernel_impl.h, once for every
// instruction set. No header of torch or of the C++ library with code in it may come in here:
// inline functions compiled for AVX-512 must not be the ones that the linker keeps for all.
#pragma once

#include <cstdint>

namespace ms_detr::cpu {

// Samples are handled in groups of this many, the number of floats in the widest vector; the last
// group is padded. Rows of channels are a multiple of it too.
constexpr int kGroup = 16;

constexpr int64_t padded(int64_t n) { return (n + kGroup - 1) / kGroup * kGroup; }

// Constants of a group of samples, which are in the order (level, point). `Int` is as wide as T.
template <typename T, typename Int>
struct alignas(64) Samples {
  Int valid[kGroup];      // all bits; 0 in the padding
  T width[kGroup];        // of the sample's level, in cells
  T last_column[kGroup];  // the highest column that has a right neighbour, at least 0
  T last_row[kGroup];
  T end_column[kGroup];  // how far behind such a column its neighbour has weight: 2; 0 without one
  T end_row[kGroup];
  Int start[kGroup];  // from the first cell of all to the level's, in elements
  Int below[kGroup];  // from a cell to the one below; 0 in a level of height 1
};

// One head of one image. Strides are in elements, from one query to the next.
template <typename T, typename Int>
struct Head {
  const Samples<T, Int>* samples;  // all groups
  int64_t count;                   // levels * points

  int64_t channels;         // of value rows that may be read and written, a multiple of kGroup
  int64_t output_channels;  // of out and grad_out rows; at most `channels`
  // The cells, `row` elements apart, fewer than 2^31 elements. Where a level is one cell wide, a
  // finite row follows the last cell: it is read, with weight 0.
  const T* value;
  int64_t row;
  bool prefetch;  // worth while where few rows of many are read

  // Coordinates in pixels are base + scale * input: [x of all padded samples | y of all].
  const T* base;
  const T* scale;
  int64_t base_stride;  // 0 if all queries share one
  int64_t scale_stride;
  const T* inputs;  // (x, y) of all samples: locations or offsets
  const T* inputs_end;
  int64_t inputs_stride;
  const T* weights;  // attention weights, or logits if `softmax`
  const T* weights_end;
  int64_t weights_stride;
  bool softmax;

  T* out;
  int64_t out_stride;

  // Backward only. grad_value has the layout of value and is added to.
  const T* grad_out;
  T* grad_value;
  T* grad_inputs;   // layout of inputs
  T* grad_weights;  // layout of weights
};

using HeadF = Head<float, int32_t>;
using HeadD = Head<double, int64_t>;

// Backward takes so many queries through one step after the other.
constexpr int64_t kTile = 16;

// `workspace`, aligned to 64 bytes: kWorkspace * padded(count) + kTile * channels elements.
constexpr int64_t kWorkspace = 6 * kTile + 16;

struct Kernels {
  const char* name;
  void (*forward_f32)(const HeadF&, int64_t first, int64_t last, float* workspace);
  void (*forward_f64)(const HeadD&, int64_t first, int64_t last, double* workspace);
  void (*backward_f32)(const HeadF&, int64_t first, int64_t last, float* workspace);
  void (*backward_f64)(const HeadD&, int64_t first, int64_t last, double* workspace);
};

extern const Kernels kBaseline;
#if defined(__x86_64__)
extern const Kernels kAvx2;
extern const Kernels kAvx512;
#endif

}  // namespace ms_detr::cpu
