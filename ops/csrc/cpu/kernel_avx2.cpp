// The kernels for AVX2.
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define MS_DETR_ISA avx2
#define MS_DETR_VECTOR_BYTES 32
#include "kernel_impl.h"

namespace ms_detr::cpu {
const Kernels kAvx2 = {"avx2", avx2::forward_f32, avx2::forward_f64, avx2::backward_f32,
                       avx2::backward_f64};
}
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
