// cuDNN's fused attention as graphs of cudnn-frontend. Tokens lie as [batch, time, heads, head_dim]; cuDNN names the same memory
// [batch, heads, time, head_dim] by strides, so nothing is copied. Only host code: no kernel of ours is here.
#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include "cuda/attention_cudnn.h"

#include <cudnn_frontend.h>

#include <memory>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "cuda/cudnn_handle.h"

namespace expctr::cuda {

namespace {

namespace fe = cudnn_frontend;
using GraphTensor = std::shared_ptr<fe::graph::Tensor_attributes>;
using Operands = std::unordered_map<std::int64_t, void*>;

/// Names of the operands in the graphs.
enum Operand : std::int64_t { q_id = 1, k_id, v_id, y_id, statistics_id, dy_id, dq_id, dk_id, dv_id };

/// Extents and strides of an operand with `heads` heads.
struct Layout {
  std::vector<std::int64_t> extents, strides;
};
Layout token_layout(const CudnnAttention& a, std::int64_t heads) {
  const std::int64_t width = heads * a.head_dim;
  return {{a.batch, heads, a.time, a.head_dim}, {a.time * width, a.head_dim, width, 1}};
}
Layout statistics_layout(const CudnnAttention& a) {
  const std::int64_t heads = a.heads, time = a.time;
  return {{a.batch, heads, time, 1}, {heads * time, time, 1, 1}};
}

GraphTensor input(fe::graph::Graph& graph, std::int64_t id, const Layout& layout, fe::DataType_t type = fe::DataType_t::BFLOAT16) {
  return graph.tensor(fe::graph::Tensor_attributes().set_uid(id).set_dim(layout.extents).set_stride(layout.strides).set_data_type(type));
}

void output(const GraphTensor& tensor, std::int64_t id, const Layout& layout, fe::DataType_t type = fe::DataType_t::BFLOAT16) {
  tensor->set_output(true).set_uid(id).set_dim(layout.extents).set_stride(layout.strides).set_data_type(type);
}

template <class Attributes>
Attributes attributes_of(const CudnnAttention& a) {
  Attributes attributes;
  attributes.set_name("attention").set_attn_scale(a.scale);
  if (a.causal) attributes.set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT).set_diagonal_band_right_bound(0);
  return attributes;
}

/// A built graph; without one where cuDNN has no engine.
struct Plan {
  std::unique_ptr<fe::graph::Graph> graph;
  std::int64_t workspace = 0;
};

Plan build(const CudnnAttention& a, CudnnAttentionPass pass, cudnnHandle_t handle) {
  auto graph = std::make_unique<fe::graph::Graph>();
  graph->set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  const Layout wide = token_layout(a, a.heads), narrow = token_layout(a, a.kv_heads), rows = statistics_layout(a);
  const GraphTensor q = input(*graph, q_id, wide), k = input(*graph, k_id, narrow), v = input(*graph, v_id, narrow);
  if (pass == CudnnAttentionPass::backward) {
    // Sums in a fixed order, as everywhere in the engine. On compute capability 9.0 cuDNN then works in 2 bytes a score.
    auto attributes = attributes_of<fe::graph::SDPA_backward_attributes>(a);
    attributes.set_deterministic_algorithm(true);
    const auto [dq, dk, dv] = graph->sdpa_backward(q, k, v, input(*graph, y_id, wide), input(*graph, dy_id, wide),
                                                   input(*graph, statistics_id, rows, fe::DataType_t::FLOAT), attributes);
    output(dq, dq_id, wide);
    output(dk, dk_id, narrow);
    output(dv, dv_id, narrow);
  } else {
    const bool training = pass == CudnnAttentionPass::training;
    auto attributes = attributes_of<fe::graph::SDPA_attributes>(a);
    attributes.set_generate_stats(training);
    const auto [y, statistics] = graph->sdpa(q, k, v, attributes);
    output(y, y_id, wide);
    if (training) output(statistics, statistics_id, rows, fe::DataType_t::FLOAT);
  }
  Plan plan;
  if (graph->build(handle, {fe::HeurMode_t::A}).is_bad() || graph->get_workspace_size(plan.workspace).is_bad()) return {};
  plan.graph = std::move(graph);
  return plan;
}

/// The plan of the current device, from the cache. More shapes than it takes empty it: a plan still in use stays with its user.
std::shared_ptr<const Plan> plan_of(const CudnnAttention& a, CudnnAttentionPass pass, cudnnHandle_t handle) {
  using Key = std::tuple<int, int, int, int, int, int, bool, float, CudnnAttentionPass>;
  constexpr std::size_t most_plans = 256;
  // Never destroyed, like the handle.
  static std::mutex* mutex = new std::mutex;
  static auto* plans = new std::map<Key, std::shared_ptr<const Plan>>;
  int device = 0;
  EXPCTR_CUDA_CHECK(cudaGetDevice(&device));
  const Key key{device, a.batch, a.time, a.heads, a.kv_heads, a.head_dim, a.causal, a.scale, pass};
  const std::lock_guard lock(*mutex);
  if (const auto found = plans->find(key); found != plans->end()) return found->second;
  if (plans->size() >= most_plans) plans->clear();
  return (*plans)[key] = std::make_shared<const Plan>(build(a, pass, handle));
}

void execute(const CudnnAttention& a, CudnnAttentionPass pass, Operands operands, void* workspace, Stream stream) {
  const cudnnHandle_t handle = cudnn_handle(stream);
  const std::shared_ptr<const Plan> plan = plan_of(a, pass, handle);
  const char* const hint = "switch cuDNN off: the engine's own kernels take every shape";
  if (plan->graph == nullptr) throw Error("cuda: cuDNN has no attention for this shape", hint);
  auto status = plan->graph->execute(handle, operands, workspace);
  if (status.is_bad()) throw Error("cuda: cuDNN's attention failed: " + status.get_message(), hint);
}

}  // namespace

std::optional<std::size_t> cudnn_attention_workspace(const CudnnAttention& attention, CudnnAttentionPass pass, Stream stream) {
  const std::shared_ptr<const Plan> plan = plan_of(attention, pass, cudnn_handle(stream));
  if (plan->graph == nullptr) return std::nullopt;
  return static_cast<std::size_t>(plan->workspace);
}

void cudnn_attention_forward(const CudnnAttention& attention, const CudnnAttentionForward& pass, Stream stream) {
  Operands operands{{q_id, pass.q}, {k_id, pass.k}, {v_id, pass.v}, {y_id, pass.y}};
  if (pass.statistics != nullptr) operands[statistics_id] = pass.statistics;
  execute(attention, pass.statistics != nullptr ? CudnnAttentionPass::training : CudnnAttentionPass::inference, std::move(operands),
          pass.workspace, stream);
}

void cudnn_attention_backward(const CudnnAttention& attention, const CudnnAttentionBackward& pass, Stream stream) {
  execute(attention, CudnnAttentionPass::backward,
          {{q_id, pass.q},
           {k_id, pass.k},
           {v_id, pass.v},
           {y_id, pass.y},
           {statistics_id, pass.statistics},
           {dy_id, pass.dy},
           {dq_id, pass.dq},
           {dk_id, pass.dk},
           {dv_id, pass.dv}},
          pass.workspace, stream);
}

}  // namespace expctr::cuda
