// A sequence of launches that is recorded once and replayed as one: what a training step costs the host is then one call. Free of CUDA
// types, as cuda/device.h.
#pragma once

#include <cstddef>
#include <functional>
#include <utility>

#include "base/view.h"

namespace expctr::cuda {

/// The work that `body` queued on a stream. What a replay reads and writes is the memory that was there when it was recorded, so
/// - everything that changes from replay to replay is read from device memory (ids, labels; AdamW::control in base/kernels/optim.h);
/// - tensors that live on after the recording must be alive at every replay; memory that was given back during the recording is written
///   again by every replay: tensors that are made afterwards and kept must not come from it. A step's own temporary tensors are such
///   memory, and what is made and given back between two replays does no harm.
class Graph {
 public:
  Graph() = default;
  /// Records what `body` queues; nothing of it runs. A wait for the device, a copy to or from the host and an allocation from the system
  /// are errors while recording: run the body once before, so that caches are warm.
  static Graph record(Stream stream, const std::function<void()>& body);
  Graph(Graph&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)), nodes_(std::exchange(other.nodes_, 0)) {}
  Graph& operator=(Graph&& other) noexcept {
    std::swap(handle_, other.handle_);
    std::swap(nodes_, other.nodes_);
    return *this;
  }
  ~Graph();

  /// Queues all of it on the stream.
  void replay(Stream stream) const;
  /// Launches, copies and fills that were recorded.
  std::size_t nodes() const { return nodes_; }

 private:
  void* handle_ = nullptr;
  std::size_t nodes_ = 0;
};

}  // namespace expctr::cuda
