// The kernels for the instructions that every machine has.
#define MS_DETR_ISA baseline
#define MS_DETR_VECTOR_BYTES 16
#include "kernel_impl.h"

namespace ms_detr::cpu {
const Kernels kBaseline = {"baseline", baseline::forward_f32, baseline::forward_f64,
                           baseline::backward_f32, baseline::backward_f64};
}
