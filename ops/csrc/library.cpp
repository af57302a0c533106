// The operator's schemas. Their fake kernels, autograd formulas and autocast rules are Python:
// ms_detr/ops/registration.py. The kernels register themselves: cpu/, cuda/.
#include <torch/library.h>

TORCH_LIBRARY(ms_detr, m) {
  m.def("cpu_instruction_set() -> str");
  m.set_python_module("ms_detr.ops.registration");
  m.def(
      "deformable_attention(Tensor value, SymInt[] level_shapes, Tensor sampling_locations, "
      "Tensor attention_weights) -> Tensor");
  m.def(
      "deformable_attention_backward(Tensor grad, Tensor value, SymInt[] level_shapes, "
      "Tensor sampling_locations, Tensor attention_weights) -> (Tensor, Tensor, Tensor)");
  // Softmax and location arithmetic inside.
  m.def(
      "fused_deformable_attention(Tensor value, SymInt[] level_shapes, Tensor reference, "
      "Tensor offsets, Tensor logits) -> Tensor");
  m.def(
      "fused_deformable_attention_backward(Tensor grad, Tensor value, SymInt[] level_shapes, "
      "Tensor reference, Tensor offsets, Tensor logits) -> (Tensor, Tensor, Tensor)");
}
