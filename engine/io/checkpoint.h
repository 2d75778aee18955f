// Checkpoints: a folder that is there whole or not at all.
//
//   <dir>/<serial>-<label>/  manifest.json   format, label, index of tensors, size and SHA-256 of every other file, checksum of itself
//                            tensors.bin     raw little-endian bytes, each tensor at a multiple of 64
//                            state.json      RNG, data position, RL state, counters: the caller's
//                            config.yaml     the resolved configuration
//
// `serial` (8 digits) counts the checkpoints written into <dir>: the newest is the one written last, whatever step it is of. A checkpoint
// is written under a name that starts with ".tmp-", flushed file by file, renamed, and its parent flushed; a crash at any moment leaves the
// ones before whole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "engine/io/durable_file.h"

namespace expctr {

/// A tensor as bytes: row-major, little-endian. `bytes` is a view; its size is dtype_bytes(dtype, product of shape).
struct NamedBlob {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
};

/// Writes one checkpoint. Without commit() nothing is left behind. During its life the process is in phase "checkpoint".
class CheckpointWriter {
 public:
  /// `label` names the moment for people ("stage1-fold0-step6"; letters, digits, '.', '_', '-'). Makes `directory`.
  CheckpointWriter(const std::filesystem::path& directory, std::string_view label);
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// Writes the bytes now; the view need not live longer than the call. Throws Error for a name used twice or bytes that do not fit the
  /// shape.
  void add(const NamedBlob& blob);
  void set_state(nlohmann::json state);
  void set_config(std::string yaml);

  /// Makes the checkpoint durable and visible, then removes older ones and left-overs so that `keep` (>= 1) stay. Returns its folder.
  std::filesystem::path commit(int keep = 2);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A checkpoint that was read and verified: every size and checksum is right, every tensor lies inside its file.
class Checkpoint {
 public:
  /// Throws InputError naming the file and the fault.
  static Checkpoint open(const std::filesystem::path& folder);

  /// The newest whole checkpoint in `directory`, none when there is none. Damaged ones are passed over, each with a call of `warn`.
  static std::optional<Checkpoint> open_latest(const std::filesystem::path& directory, const std::function<void(const std::string&)>& warn);

  const std::filesystem::path& folder() const { return folder_; }
  const std::string& label() const { return label_; }
  const nlohmann::json& state() const { return state_; }
  const std::string& config() const { return config_; }

  /// In the order in which they were added. The views live as long as this object or a copy of it.
  const std::vector<NamedBlob>& tensors() const { return tensors_; }
  bool has(std::string_view name) const;
  /// Throws InputError when there is no such tensor.
  const NamedBlob& tensor(std::string_view name) const;

 private:
  std::filesystem::path folder_;
  std::string label_;
  nlohmann::json state_;
  std::string config_;
  std::vector<NamedBlob> tensors_;
  std::shared_ptr<const std::byte> mapping_;
};

/// Whole and damaged checkpoints of a folder by age, oldest first; unfinished ones are not among them.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& directory);

}  // namespace expctr
