// The kernels for AVX512.
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,fma")
#endif
#define MS_DETR_ISA avx512
#define MS_DETR_VECTOR_BYTES 64
#include "kernel_impl.h"

namespace ms_detr::cpu {
const Kernels kAvx512 = {"avx512", avx512::forward_f32, avx512::forward_f64, avx512::backward_f32,
                         avx512::backward_f64};
}
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
