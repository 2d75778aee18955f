// CUDA graphs by capture of a stream.
#include "cuda/graph.h"
#include "cuda/launch.cuh"

namespace expctr::cuda {

namespace {

/// A graph that is being recorded or instantiated; ends the capture when an exception passes.
class Recording {
 public:
  explicit Recording(Stream stream) : stream_(native(stream)) {
    EXPCTR_CUDA_CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    open_ = true;
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;
  ~Recording() {
    if (open_) cudaStreamEndCapture(stream_, &graph_);
    if (graph_ != nullptr) cudaGraphDestroy(graph_);
    cudaGetLastError();  // the reason is on its way already
  }
  cudaGraph_t end() {
    open_ = false;
    EXPCTR_CUDA_CHECK(cudaStreamEndCapture(stream_, &graph_));
    return graph_;
  }

 private:
  cudaStream_t stream_;
  cudaGraph_t graph_ = nullptr;
  bool open_ = false;
};

}  // namespace

Graph Graph::record(Stream stream, const std::function<void()>& body) {
  Recording recording(stream);
  body();
  cudaGraph_t graph = recording.end();
  Graph result;
  EXPCTR_CUDA_CHECK(cudaGraphGetNodes(graph, nullptr, &result.nodes_));
  cudaGraphExec_t executable = nullptr;
  EXPCTR_CUDA_CHECK(cudaGraphInstantiate(&executable, graph, 0));
  result.handle_ = executable;
  return result;
}

Graph::~Graph() {
  if (handle_ != nullptr) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(handle_));
}

void Graph::replay(Stream stream) const {
  if (handle_ == nullptr) throw Error("cuda: replay of a graph that was not recorded", "Graph::record makes one");
  EXPCTR_CUDA_CHECK(cudaGraphLaunch(static_cast<cudaGraphExec_t>(handle_), native(stream)));
}

}  // namespace expctr::cuda
