// The operator on the CPU: what each head of each image reads and writes, and on which thread.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "../entries.h"
#include "../problem.h"
#include "kernel.h"

#if defined(__linux__) && AT_PARALLEL_OPENMP && !defined(_OPENMP)
#error "without -fopenmp at::parallel_for would silently run on one thread"
#endif

namespace ms_detr::cpu {
namespace {

using at::IntArrayRef;
using at::Tensor;

// The best instruction set of this machine; MS_DETR_CPU (baseline, avx2, avx512) asks for less.
const Kernels& choose_kernels() {
#if defined(__x86_64__)
  const char* asked = std::getenv("MS_DETR_CPU");
  const std::string_view most = asked ? asked : "avx512";
  TORCH_CHECK_VALUE(most == "avx512" || most == "avx2" || most == "baseline",
                    "MS_DETR_CPU must be avx512, avx2 or baseline, got ", asked);
  if (most == "avx512" && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) {
    return kAvx512;
  }
  if (most != "baseline" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return kAvx2;
  }
#endif
  return kBaseline;
}

const Kernels& kernels() {
  static const Kernels& chosen = choose_kernels();
  return chosen;
}

template <typename T>
using IntOf = std::conditional_t<std::is_same_v<T, float>, int32_t, int64_t>;

// What the kernels have to know of all samples of a query.
template <typename T>
struct SampleTable {
  using Int = IntOf<T>;
  int64_t count, size;
  std::vector<Samples<T, Int>> groups;
  std::vector<T> extents;  // widths of all padded samples, then heights

  SampleTable(const Problem& p, IntArrayRef level_shapes, int64_t row)
      : count(p.samples()), size(padded(count)), groups(size / kGroup), extents(2 * size, T(1)) {
    int64_t cell = 0;
    for (int64_t level = 0; level < p.levels; ++level) {
      const int64_t height = level_shapes[2 * level], width = level_shapes[2 * level + 1];
      TORCH_CHECK_VALUE(height * width < (1 << 24), "a level of ", height, " x ", width,
                        " cells is too large for the CPU kernel");
      for (int64_t i = level * p.points; i < (level + 1) * p.points; ++i) {
        Samples<T, Int>& group = groups[i / kGroup];
        const int64_t k = i % kGroup;
        group.valid[k] = -1;
        group.width[k] = extents[i] = width;
        extents[size + i] = height;
        group.last_column[k] = std::max<int64_t>(width - 2, 0);
        group.last_row[k] = std::max<int64_t>(height - 2, 0);
        group.start[k] = cell * row;
        group.end_column[k] = width > 1 ? 2 : 0;
        group.end_row[k] = height > 1 ? 2 : 0;
        group.below[k] = height > 1 ? width * row : 0;
      }
      cell += height * width;
    }
  }
};

// Where samples lie: pixel coordinates are base + scale * input (see Head).
template <typename T>
struct Coordinates {
  std::vector<T> shared;
  Tensor per_query;
  const T *base, *scale;
  int64_t base_stride = 0, scale_stride = 0;  // from query to query

  // Inputs are locations: every query has the same base and scale.
  explicit Coordinates(const SampleTable<T>& table)
      : shared(4 * table.size), base(shared.data()), scale(shared.data() + 2 * table.size) {
    std::fill_n(shared.begin(), 2 * table.size, T(-0.5));
    std::copy_n(table.extents.begin(), 2 * table.size, shared.begin() + 2 * table.size);
  }

  // Inputs are offsets from references: in pixels from points, in 2 P-ths of the size from boxes.
  Coordinates(const Problem& p, const SampleTable<T>& table, const Tensor& reference)
      : shared(2 * table.size, T(1)), scale(shared.data()) {
    const int64_t size = table.size, terms = reference.size(3);
    base_stride = terms * size;
    per_query = at::empty({p.batch * p.queries, base_stride}, reference.options());
    T* out = per_query.mutable_data_ptr<T>();
    base = out;
    if (terms == 4) {
      scale = out + 2 * size;
      scale_stride = base_stride;
    }
    const T* from = reference.const_data_ptr<T>();
    at::parallel_for(0, p.batch * p.queries, 1024, [&](int64_t first, int64_t last) {
      for (int64_t q = first; q < last; ++q) {
        T* row = out + q * base_stride;
        std::fill_n(row, base_stride, T(0));
        for (int64_t level = 0; level < p.levels; ++level) {
          const T* r = from + (q * p.levels + level) * terms;
          for (int64_t i = level * p.points; i < (level + 1) * p.points; ++i) {
            for (int64_t k = 0; k < 2; ++k) {
              const T pixels = table.extents[k * size + i];
              row[k * size + i] = r[k] * pixels - T(0.5);
              if (terms == 4) row[(2 + k) * size + i] = T(0.5) / p.points * r[2 + k] * pixels;
            }
          }
        }
      }
    });
  }
};

// The tensors of one call and how its work is split.
template <typename T>
class Call {
 public:
  Call(const Tensor& value, IntArrayRef level_shapes, const Tensor& inputs, const Tensor& weights,
       const Tensor* reference, const Problem& p)
      : p_(p),
        packed_(pack(p, level_shapes)),
        channels_(packed_ ? padded(p.channels) : p.channels),
        row_(packed_ ? channels_ : p.heads * p.channels),
        table_(p, level_shapes, row_),
        coordinates_(reference ? Coordinates<T>(p, table_, *reference) : Coordinates<T>(table_)),
        softmax_(reference != nullptr),
        value_(value.const_data_ptr<T>()),
        inputs_(inputs.const_data_ptr<T>()),
        weights_(weights.const_data_ptr<T>()) {
    TORCH_CHECK_VALUE(p.cells * row_ < std::numeric_limits<int32_t>::max() &&
                          p.samples() < std::numeric_limits<int32_t>::max(),
                      "an image with ", p.cells, " cells is too large for the CPU kernel");
  }

  void forward(T* out) const {
    const int64_t all = p_.batch * p_.heads;
    // A head is split only where there are more threads than heads.
    const int64_t parts = std::clamp<int64_t>((threads() + all - 1) / all, 1, p_.queries);
    const auto run = function_of(kernels().forward_f32, kernels().forward_f64);
    split(all * parts, cells_size(), [&](int64_t task, T* scratch) {
      Head<T, IntOf<T>> head = head_of(task / parts, scratch);
      head.out = out + offset(task / parts, p_.channels, p_.queries);
      const int64_t part = task % parts;
      run(head, part * p_.queries / parts, (part + 1) * p_.queries / parts, workspace(scratch));
    });
  }

  // grad_value is zero at first unless values are packed.
  void backward(const T* grad, T* grad_value, T* grad_inputs, T* grad_weights) const {
    const auto run = function_of(kernels().backward_f32, kernels().backward_f64);
    split(p_.batch * p_.heads, 2 * cells_size(), [&](int64_t task, T* scratch) {
      Head<T, IntOf<T>> head = head_of(task, scratch);
      head.grad_out = grad + offset(task, p_.channels, p_.queries);
      head.grad_inputs = grad_inputs + offset(task, 2 * p_.samples(), p_.queries);
      head.grad_weights = grad_weights + offset(task, p_.samples(), p_.queries);
      T* target = grad_value + offset(task, p_.channels, p_.cells);
      head.grad_value = target;
      if (packed_) {
        head.grad_value = scratch + cells_size();
        std::fill_n(head.grad_value, cells_size(), T(0));
      }
      run(head, 0, p_.queries, workspace(scratch + cells_size()));
      if (packed_) copy_rows(head.grad_value, channels_, target, p_.heads * p_.channels);
    });
  }

  bool packed() const { return packed_; }

 private:
  static bool pack(const Problem& p, IntArrayRef level_shapes) {
    // Rows of one head lie heads * channels apart, which few sets of the cache share out. Where
    // every cell is read several times, a copy that lies close pays.
    const bool local = p.queries * p.samples() > 4 * p.cells;
    const bool fits = p.cells * p.heads * p.channels < std::numeric_limits<int32_t>::max();
    bool narrow = false;  // the kernels read a row behind the last cell then
    for (int64_t level = 0; level < p.levels; ++level) narrow |= level_shapes[2 * level + 1] == 1;
    return local || narrow || p.channels % kGroup || !fits;
  }

  static int64_t threads() { return at::in_parallel_region() ? 1 : at::get_num_threads(); }

  template <typename F, typename D>
  static auto function_of(F f32, D f64) {
    if constexpr (std::is_same_v<T, float>) {
      return f32;
    } else {
      return f64;
    }
  }

  int64_t cells_size() const { return packed_ ? (p_.cells + 1) * channels_ : 0; }
  int64_t workspace_size() const { return kWorkspace * table_.size + kTile * channels_; }
  T* workspace(T* scratch) const { return scratch + cells_size(); }

  // Of (image, head) in a tensor (B, n, heads, size).
  int64_t offset(int64_t image_head, int64_t size, int64_t n) const {
    const int64_t image = image_head / p_.heads, head = image_head % p_.heads;
    return (image * n * p_.heads + head) * size;
  }

  void copy_rows(const T* from, int64_t from_row, T* to, int64_t to_row) const {
    constexpr int64_t kAhead = 16;
    for (int64_t cell = 0; cell < p_.cells; ++cell) {
      for (int64_t c = 0; c < p_.channels; c += 64 / sizeof(T)) {
        __builtin_prefetch(from + (cell + kAhead) * from_row + c);
        __builtin_prefetch(to + (cell + kAhead) * to_row + c, 1);
      }
      std::memcpy(to + cell * to_row, from + cell * from_row, p_.channels * sizeof(T));
    }
  }

  Head<T, IntOf<T>> head_of(int64_t task, T* scratch) const {
    Head<T, IntOf<T>> head{};
    const int64_t samples = p_.samples(), rows = p_.batch * p_.queries * p_.heads;
    const int64_t first_query = task / p_.heads * p_.queries;
    head.samples = table_.groups.data();
    head.count = samples;
    head.channels = channels_;
    head.output_channels = p_.channels;
    head.value = value_ + offset(task, p_.channels, p_.cells);
    head.row = row_;
    head.prefetch = !packed_;
    head.base = coordinates_.base + first_query * coordinates_.base_stride;
    head.scale = coordinates_.scale + first_query * coordinates_.scale_stride;
    head.base_stride = coordinates_.base_stride;
    head.scale_stride = coordinates_.scale_stride;
    head.inputs = inputs_ + offset(task, 2 * samples, p_.queries);
    head.inputs_end = inputs_ + rows * 2 * samples;
    head.inputs_stride = p_.heads * 2 * samples;
    head.weights = weights_ + offset(task, samples, p_.queries);
    head.weights_end = weights_ + rows * samples;
    head.weights_stride = p_.heads * samples;
    head.softmax = softmax_;
    head.out_stride = p_.heads * p_.channels;
    if (packed_) {
      const int64_t cells = channels_ == p_.channels ? 1 : p_.cells + 1;  // others are overwritten
      std::fill_n(scratch + cells_size() - cells * channels_, cells * channels_, T(0));
      copy_rows(head.value, p_.heads * p_.channels, scratch, channels_);
      head.value = scratch;
    }
    return head;
  }

  // Runs f(task, its thread's scratch) for all tasks: whoever is free takes the next one. All
  // scratch is one allocation of the calling thread: others would fault their pages in every time.
  template <typename F>
  void split(int64_t tasks, int64_t scratch_size, const F& f) const {
    const int64_t work = p_.batch * p_.queries * p_.heads * p_.samples() * p_.channels;
    const int64_t slots = std::clamp<int64_t>(std::min(tasks, work / 32768), 1, threads());
    const int64_t size = padded(scratch_size + workspace_size());
    const auto options = at::TensorOptions().dtype(c10::CppTypeToScalarType<T>::value);
    Tensor memory = at::empty({slots * size}, options);
    T* scratch = memory.mutable_data_ptr<T>();
    std::atomic<int64_t> next{0};
    at::parallel_for(0, slots, 1, [&](int64_t first, int64_t last) {
      for (int64_t slot = first; slot < last; ++slot) {
        for (int64_t task; (task = next++) < tasks;) f(task, scratch + slot * size);
      }
    });
  }

  const Problem p_;
  const bool packed_;
  const int64_t channels_, row_;
  const SampleTable<T> table_;
  const Coordinates<T> coordinates_;
  const bool softmax_;
  const T *value_, *inputs_, *weights_;
};

// The kernels know float and double; half types are computed in float.
at::ScalarType compute_type(const Tensor& value) {
  return value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

Tensor prepare(const Tensor& tensor, at::ScalarType type) {
  TORCH_CHECK_VALUE(tensor.device().is_cpu(), "all tensors must be on one device");
  return tensor.to(type).contiguous();
}

Tensor attend(const Tensor& value, IntArrayRef level_shapes, const Tensor* reference,
              const Tensor& inputs, const Tensor& weights) {
  const Problem p = check(value, level_shapes, inputs, weights);
  const auto type = compute_type(value);
  const Tensor v = prepare(value, type), x = prepare(inputs, type), w = prepare(weights, type);
  Tensor r;
  if (reference) {
    check_reference(p, value, *reference);
    r = prepare(*reference, type);
  }
  Tensor out = at::empty({p.batch, p.queries, p.heads * p.channels}, v.options());
  if (out.numel() && !p.samples()) out.zero_();
  if (out.numel() && p.samples()) {
    if (type == at::kDouble) {
      Call<double>(v, level_shapes, x, w, reference ? &r : nullptr, p)
          .forward(out.mutable_data_ptr<double>());
    } else {
      Call<float>(v, level_shapes, x, w, reference ? &r : nullptr, p)
          .forward(out.mutable_data_ptr<float>());
    }
  }
  return out.to(value.scalar_type());
}

template <typename T>
Gradients gradients(const Problem& p, const Tensor& grad, const Tensor& value,
                    IntArrayRef level_shapes, const Tensor* reference, const Tensor& inputs,
                    const Tensor& weights) {
  if (!grad.numel() || !p.samples()) {
    return {at::zeros_like(value), at::zeros_like(inputs), at::zeros_like(weights)};
  }
  const Call<T> call(value, level_shapes, inputs, weights, reference, p);
  Tensor grad_value = call.packed() ? at::empty_like(value) : at::zeros_like(value);
  Tensor grad_inputs = at::empty_like(inputs), grad_weights = at::empty_like(weights);
  call.backward(grad.const_data_ptr<T>(), grad_value.template mutable_data_ptr<T>(),
                grad_inputs.template mutable_data_ptr<T>(),
                grad_weights.template mutable_data_ptr<T>());
  return {grad_value, grad_inputs, grad_weights};
}

Gradients attend_backward(const Tensor& grad, const Tensor& value, IntArrayRef level_shapes,
                          const Tensor* reference, const Tensor& inputs, const Tensor& weights) {
  const Problem p = check(value, level_shapes, inputs, weights);
  check_grad(p, value, grad);
  const auto type = compute_type(value);
  const Tensor g = prepare(grad, type), v = prepare(value, type), x = prepare(inputs, type),
               w = prepare(weights, type);
  Tensor r;
  if (reference) {
    check_reference(p, value, *reference);
    r = prepare(*reference, type);
  }
  const Tensor* known = reference ? &r : nullptr;
  const auto [gv, gx, gw] = type == at::kDouble
                                ? gradients<double>(p, g, v, level_shapes, known, x, w)
                                : gradients<float>(p, g, v, level_shapes, known, x, w);
  return {gv.to(value.scalar_type()), gx.to(inputs.scalar_type()), gw.to(weights.scalar_type())};
}

std::string instruction_set() { return kernels().name; }

}  // namespace
}  // namespace ms_detr::cpu

TORCH_LIBRARY_IMPL(ms_detr, CompositeExplicitAutograd, m) {
  m.impl("cpu_instruction_set", &ms_detr::cpu::instruction_set);
}

TORCH_LIBRARY_IMPL(ms_detr, CPU, m) {
  using namespace ms_detr::cpu;
  ms_detr::Entries<attend, attend_backward>::add_to(m);
}
