// How the original CUDA kernels of deformable attention go about it: the yardstick that ours are
// measured with, no part of the operator. What makes it what it is, and is kept on purpose: a
// thread for every scalar of the output, each of which reads locations and weights for itself and
// finds out about the same cells; loads of 4 bytes; a branch for every corner; level shapes as
// int64 in the GPU's memory. Backward: a block for every query and head, a thread for every
// channel, sums over channels through shared memory sample by sample, and an atomic addition for
// every scalar of every corner. float32 alone.
#pragma once

#include <cstdint>

namespace ms_detr::im2col {

constexpr int kChannels = 32;  // of a head; backward's blocks are made for it

// Some images of one call. Tensors are contiguous.
struct Arguments {
  const float* value;      // (B, S, M, D)
  const int64_t* shapes;   // (V, 2): height, width
  const int64_t* starts;   // (V)
  const float* locations;  // (B, Q, M, V, P, 2)
  const float* weights;    // (B, Q, M, V, P)
  int cells, heads, channels, levels, queries, points;
};

// What a thread works on: one channel of one query and head of one image.
struct Scalar {
  int head, channel;
  int64_t value;   // where the image begins
  int64_t sample;  // the first one

  __device__ Scalar(const Arguments& a, int index) {
    channel = index % a.channels;
    const int row = index / a.channels;
    head = row % a.heads;
    const int image = row / a.heads / a.queries;
    value = static_cast<int64_t>(image) * a.cells * a.heads * a.channels;
    sample = static_cast<int64_t>(row) * a.levels * a.points;
  }
};

// The four cells around (x, y) and how much each of them counts.
struct Corners {
  int top, left, height, width;
  float below, right;  // distances from the upper left cell
  int row, column, base;

  __device__ Corners(const Arguments& a, const Scalar& at, int height_, int width_, float y,
                     float x) {
    height = height_;
    width = width_;
    top = static_cast<int>(floor(y));
    left = static_cast<int>(floor(x));
    below = y - top;
    right = x - left;
    column = a.heads * a.channels;
    row = width * column;
    base = at.head * a.channels + at.channel;
  }

  __device__ bool inside(int k) const {
    const int y = top + k / 2, x = left + k % 2;
    return y >= 0 && y < height && x >= 0 && x < width;
  }
  __device__ int offset(int k) const {
    return (top + k / 2) * row + (left + k % 2) * column + base;
  }
  __device__ float weight(int k) const {
    return (k / 2 ? below : 1 - below) * (k % 2 ? right : 1 - right);
  }
};

__global__ void forward_kernel(int count, Arguments a, float* out) {
  for (int index = blockIdx.x * blockDim.x + threadIdx.x; index < count;
       index += blockDim.x * gridDim.x) {
    const Scalar at(a, index);
    int64_t sample = at.sample;
    float sum = 0;
    for (int level = 0; level < a.levels; ++level) {
      const int height = a.shapes[2 * level], width = a.shapes[2 * level + 1];
      const float* value = a.value + at.value + a.starts[level] * a.heads * a.channels;
      for (int point = 0; point < a.points; ++point, ++sample) {
        const float x = a.locations[2 * sample] * width - 0.5f;
        const float y = a.locations[2 * sample + 1] * height - 0.5f;
        if (!(y > -1 && x > -1 && y < height && x < width)) continue;
        const Corners corners(a, at, height, width, y, x);
        float sampled = 0;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          if (corners.inside(k)) sampled += corners.weight(k) * value[corners.offset(k)];
        }
        sum += a.weights[sample] * sampled;
      }
    }
    out[index] = sum;
  }
}

// Needs blocks of kChannels threads. Gradients of values are added to, the others written.
__global__ void backward_kernel(int count, Arguments a, const float* grad_out, float* grad_value,
                                float* grad_locations, float* grad_weights) {
  __shared__ float parts[3][kChannels];  // by x, by y, by weight
  for (int index = blockIdx.x * blockDim.x + threadIdx.x; index < count;
       index += blockDim.x * gridDim.x) {
    const Scalar at(a, index);
    const float grad = grad_out[index];
    int64_t sample = at.sample;
    for (int level = 0; level < a.levels; ++level) {
      const int height = a.shapes[2 * level], width = a.shapes[2 * level + 1];
      const int64_t start = at.value + a.starts[level] * a.heads * a.channels;
      for (int point = 0; point < a.points; ++point, ++sample) {
        const float x = a.locations[2 * sample] * width - 0.5f;
        const float y = a.locations[2 * sample + 1] * height - 0.5f;
        const float weight = a.weights[sample];
        float by_x = 0, by_y = 0, sampled = 0;
        if (y > -1 && x > -1 && y < height && x < width) {
          const Corners corners(a, at, height, width, y, x);
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            if (!corners.inside(k)) continue;
            const float value = a.value[start + corners.offset(k)];
            sampled += corners.weight(k) * value;
            by_x += (k % 2 ? value : -value) * (k / 2 ? corners.below : 1 - corners.below);
            by_y += (k / 2 ? value : -value) * (k % 2 ? corners.right : 1 - corners.right);
            atomicAdd(grad_value + start + corners.offset(k), grad * weight * corners.weight(k));
          }
        }
        parts[0][threadIdx.x] = width * weight * grad * by_x;
        parts[1][threadIdx.x] = height * weight * grad * by_y;
        parts[2][threadIdx.x] = grad * sampled;
        __syncthreads();
        if (threadIdx.x == 0) {  // up to 32 channels the first thread adds; a tree comes later
          float sums[3] = {};
#pragma unroll
          for (int thread = 0; thread < kChannels; ++thread) {
            for (int k = 0; k < 3; ++k) sums[k] += parts[k][thread];
          }
          grad_locations[2 * sample] = sums[0];
          grad_locations[2 * sample + 1] = sums[1];
          grad_weights[sample] = sums[2];
        }
        __syncthreads();
      }
    }
  }
}

}  // namespace ms_detr::im2col
