// TensorBoard event files: scalars.
//
// A file is a sequence of TFRecords {u64 length, u32 masked CRC32C(length), data, u32 masked CRC32C(data)}, little-endian; data is the
// protocol buffer tensorflow.Event {1: double wall_time, 2: int64 step, 3: string file_version, 5: Summary {1: Value {1: string tag, 2:
// float simple_value}}, 7: SessionLog}. Source: tensorflow/core/util/event.proto, tensorflow/core/framework/summary.proto,
// tensorflow/core/lib/io/record_writer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "engine/io/durable_file.h"

namespace expctr {

/// CRC-32C (Castagnoli); crc32c("123456789") = 0xE3069283.
std::uint32_t crc32c(std::string_view bytes);
/// TFRecord's masking: rotate right by 15, add 0xA282EAD8.
std::uint32_t masked_crc32c(std::string_view bytes);
/// The bytes of one TFRecord around `data`.
std::string tf_record(std::string_view data);

/// Writes one event file, a new one for every process as TensorBoard expects.
class EventWriter {
 public:
  /// Makes `folder` and a file in it. `resumed_from`: TensorBoard forgets what earlier files hold at later steps (they are run again).
  explicit EventWriter(const std::filesystem::path& folder, std::optional<std::int64_t> resumed_from = std::nullopt);

  void scalar(std::string_view tag, double value, std::int64_t step);
  /// Several scalars of one step as one record.
  void scalars(std::span<const std::pair<std::string, double>> values, std::int64_t step);
  void sync() { file_.sync(); }
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  OutputFile file_;
};

}  // namespace expctr
