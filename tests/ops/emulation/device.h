// What CUDA kernels need to run on the CPU: a thread a lane, in step at barriers, blocks one after
// another. It shows that a kernel's logic is right where there is no GPU; nothing about speed or
// memory models. `__shared__` is the including file's to define: memory lasts as long as a block.
#pragma once

#include <atomic>
#include <barrier>
#include <cmath>
#include <memory>
#include <thread>
#include <vector>

struct Index {
  unsigned x, y, z;
};
struct uint4 {
  unsigned x, y, z, w;
};

static thread_local Index threadIdx, blockIdx;
static Index blockDim, gridDim;
static std::unique_ptr<std::barrier<>> block;
static std::vector<std::unique_ptr<std::barrier<>>> warps;
static std::vector<double> exchange;

static void __syncthreads() { block->arrive_and_wait(); }
static void __syncwarp() { warps[threadIdx.x / 32]->arrive_and_wait(); }

template <typename A>
A __shfl_xor_sync(unsigned, A value, unsigned mask) {
  exchange[threadIdx.x] = value;
  __syncwarp();
  const A other = static_cast<A>(exchange[threadIdx.x ^ mask]);
  __syncwarp();
  return other;
}

template <typename A>
void atomicAdd(A* to, A value) {
  std::atomic_ref<A>(*to).fetch_add(value);
}

template <typename T>
T __ldg(const T* from) {
  return *from;
}

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __align__(bytes)

using std::exp;
using std::floor;

// Runs a kernel with so many threads, whole warps, in every block of a grid.
template <typename F>
void launch(Index grid, unsigned threads, const F& kernel) {
  gridDim = grid;
  blockDim = {threads, 1, 1};
  block = std::make_unique<std::barrier<>>(threads);
  warps.clear();
  for (unsigned warp = 0; warp < threads / 32; ++warp) {
    warps.push_back(std::make_unique<std::barrier<>>(32));
  }
  exchange.resize(threads);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        std::vector<std::jthread> lanes;
        for (unsigned thread = 0; thread < threads; ++thread) {
          lanes.emplace_back([=, &kernel] {
            threadIdx = {thread, 0, 0};
            blockIdx = {x, y, z};
            kernel();
          });
        }
      }
    }
  }
}
