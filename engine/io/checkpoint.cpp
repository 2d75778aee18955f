#include "engine/io/checkpoint.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <iterator>

#include "base/error.h"
#include "engine/io/phase.h"
#include "engine/io/sha256.h"

namespace expctr {
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr const char* format_name = "expctr.checkpoint";
constexpr int format_version = 1;
constexpr std::uint64_t alignment = 64;
constexpr std::string_view temporary_prefix = ".tmp-";

InputError damaged(const fs::path& file, const std::string& fault) {
  return InputError(fmt::format("checkpoint file '{}': {}", file.string(), fault),
                    "delete this checkpoint's folder; the one before it is used then");
}

std::optional<DType> dtype_of_name(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(DType::q6_k); ++i) {
    if (name == dtype_name(static_cast<DType>(i))) return static_cast<DType>(i);
  }
  return std::nullopt;
}

/// Bytes of a tensor; none when a dimension is negative, the product overflows or the elements do not fill whole blocks.
std::optional<std::uint64_t> tensor_bytes(DType dtype, const std::vector<std::int64_t>& shape) {
  std::int64_t elements = 1;
  for (const std::int64_t dimension : shape) {
    if (dimension < 0 || __builtin_mul_overflow(elements, dimension, &elements)) return std::nullopt;
  }
  const DTypeTraits traits = dtype_traits(dtype);
  std::int64_t bytes = 0;
  if (elements % traits.block_elements != 0) return std::nullopt;
  if (__builtin_mul_overflow(elements / traits.block_elements, traits.block_bytes, &bytes)) return std::nullopt;
  return static_cast<std::uint64_t>(bytes);
}

/// The serial number of a checkpoint's folder name, none for other names.
std::optional<std::uint64_t> serial_of(const std::string& name) {
  const std::size_t dash = name.find('-');
  if (dash == std::string::npos || dash < 8 || dash > 18 || name.find_first_not_of("0123456789") != dash) return std::nullopt;
  return std::stoull(name.substr(0, dash));
}

std::string manifest_checksum(json manifest) {
  manifest.erase("checksum");
  return sha256_hex(as_bytes(manifest.dump()));
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw damaged(path, "missing or not readable");
  return {std::istreambuf_iterator<char>(file), {}};
}

std::shared_ptr<const std::byte> map_file(const fs::path& path, std::uint64_t size) {
  if (size == 0) return std::make_shared<const std::byte>();
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw damaged(path, "missing or not readable");
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  ::close(descriptor);
  if (address == MAP_FAILED) throw ResourceError(fmt::format("cannot map '{}' ({} bytes)", path.string(), size));
  return {static_cast<const std::byte*>(address), [size](const std::byte* p) { ::munmap(const_cast<std::byte*>(p), size); }};
}

/// Removes a checkpoint so that a crash on the way never leaves a half one under a good name.
void remove_checkpoint(const fs::path& folder) {
  const fs::path doomed = folder.parent_path() / (std::string(temporary_prefix) + folder.filename().string());
  std::error_code ignored;
  fs::remove_all(doomed, ignored);
  rename_path(folder, doomed);
  fs::remove_all(doomed, ignored);
}

void remove_left_overs(const fs::path& directory) {
  std::error_code ignored;
  std::vector<fs::path> doomed;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, ignored)) {
    if (entry.path().filename().string().starts_with(temporary_prefix)) doomed.push_back(entry.path());
  }
  for (const fs::path& path : doomed) fs::remove_all(path, ignored);
}

}  // namespace

struct CheckpointWriter::Impl {
  fs::path directory, temporary, target;
  std::optional<OutputFile> tensors;
  Sha256 tensors_hash;
  json index = json::array();
  json state = json::object();
  std::string label, config;
  std::unordered_map<std::string, bool> names;
  PhaseScope phase_scope{"checkpoint"};
  bool committed = false;

  void write_hashed(std::span<const std::byte> bytes) {
    tensors->write(bytes);
    tensors_hash.update(bytes);
  }

  json write_file(const std::string& name, const std::string& text) {
    OutputFile file = OutputFile::create(temporary / name);
    file.write(text);
    file.sync();
    file.close();
    return {{"bytes", text.size()}, {"sha256", sha256_hex(as_bytes(text))}};
  }
};

CheckpointWriter::CheckpointWriter(const fs::path& directory, std::string_view label) : impl_(std::make_unique<Impl>()) {
  constexpr std::string_view allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  if (label.empty() || label.find_first_not_of(allowed) != std::string_view::npos) {
    throw Error(fmt::format("checkpoint label '{}' has characters that do not belong into a file name", label));
  }
  make_folders(directory);
  remove_left_overs(directory);
  std::uint64_t serial = 1;
  for (const fs::path& folder : list_checkpoints(directory)) serial = std::max(serial, *serial_of(folder.filename().string()) + 1);
  const std::string name = fmt::format("{:08}-{}", serial, label);
  impl_->label = label;
  impl_->directory = directory;
  impl_->target = directory / name;
  impl_->temporary = directory / (std::string(temporary_prefix) + name);
  make_folders(impl_->temporary);
  impl_->tensors = OutputFile::create(impl_->temporary / "tensors.bin");
}

CheckpointWriter::~CheckpointWriter() {
  std::error_code ignored;
  if (!impl_->committed) fs::remove_all(impl_->temporary, ignored);
}

void CheckpointWriter::add(const NamedBlob& blob) {
  const auto expected = tensor_bytes(blob.dtype, blob.shape);
  if (!expected || *expected != blob.bytes.size()) {
    throw Error(fmt::format("checkpoint tensor '{}': {} bytes do not fit {} [{}]", blob.name, blob.bytes.size(), dtype_name(blob.dtype),
                            fmt::join(blob.shape, ", ")));
  }
  if (!impl_->names.emplace(blob.name, true).second) throw Error(fmt::format("checkpoint tensor '{}' was added twice", blob.name));
  constexpr std::array<std::byte, alignment> zeros{};
  if (const std::uint64_t odd = impl_->tensors->size() % alignment) impl_->write_hashed(std::span(zeros).first(alignment - odd));
  impl_->index.push_back({{"name", blob.name},
                          {"dtype", dtype_name(blob.dtype)},
                          {"shape", blob.shape},
                          {"offset", impl_->tensors->size()},
                          {"bytes", blob.bytes.size()}});
  impl_->write_hashed(blob.bytes);
}

void CheckpointWriter::set_state(json state) { impl_->state = std::move(state); }
void CheckpointWriter::set_config(std::string yaml) { impl_->config = std::move(yaml); }

fs::path CheckpointWriter::commit(int keep) {
  if (keep < 1) throw Error(fmt::format("checkpoints to keep: {}, must be >= 1", keep));
  Impl& impl = *impl_;
  json files;
  files["tensors.bin"] = {{"bytes", impl.tensors->size()}, {"sha256", impl.tensors_hash.hex()}};
  impl.tensors->sync();
  impl.tensors->close();
  files["state.json"] = impl.write_file("state.json", impl.state.dump());
  files["config.yaml"] = impl.write_file("config.yaml", impl.config);
  json manifest = {
      {"format", format_name}, {"version", format_version}, {"label", impl.label}, {"files", files}, {"tensors", std::move(impl.index)}};
  manifest["checksum"] = manifest_checksum(manifest);
  impl.write_file("manifest.json", manifest.dump(1) + "\n");
  sync_folder(impl.temporary);
  rename_path(impl.temporary, impl.target);
  impl.committed = true;
  sync_folder(impl.directory);
  const std::vector<fs::path> all = list_checkpoints(impl.directory);
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep) < all.size(); ++i) remove_checkpoint(all[i]);
  return impl.target;
}

std::vector<fs::path> list_checkpoints(const fs::path& directory) {
  std::vector<std::pair<std::uint64_t, fs::path>> found;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    if (const auto serial = serial_of(entry->path().filename().string())) found.emplace_back(*serial, entry->path());
  }
  std::sort(found.begin(), found.end());
  std::vector<fs::path> paths;
  for (auto& [serial, path] : found) paths.push_back(std::move(path));
  return paths;
}

Checkpoint Checkpoint::open(const fs::path& folder) {
  const fs::path manifest_path = folder / "manifest.json";
  const json manifest = json::parse(read_file(manifest_path), nullptr, false);
  if (!manifest.is_object()) throw damaged(manifest_path, "not a JSON object");
  if (manifest.value("format", json()) != format_name) throw damaged(manifest_path, "not a manifest of a checkpoint");
  if (manifest.value("version", json()) != format_version) {
    throw InputError(fmt::format("checkpoint file '{}': version {}, this program reads {}", manifest_path.string(),
                                 manifest.value("version", json()).dump(), format_version),
                     "use the program that wrote it, or start the run anew with --resume never");
  }
  if (manifest.value("checksum", json()) != manifest_checksum(manifest)) throw damaged(manifest_path, "its checksum is wrong");

  Checkpoint checkpoint;
  checkpoint.folder_ = folder;
  try {
    // A right checksum over a wrong structure means a foreign writer; the accessors throw then.
    checkpoint.label_ = manifest.at("label").get<std::string>();
    const json& files = manifest.at("files");
    for (const char* name : {"tensors.bin", "state.json", "config.yaml"}) {
      const json& entry = files.at(name);
      std::error_code error;
      const std::uintmax_t size = fs::file_size(folder / name, error);
      if (error) throw damaged(folder / name, "missing or not readable");
      if (size != entry.at("bytes").get<std::uint64_t>()) {
        throw damaged(folder / name, fmt::format("{} bytes, the manifest says {}", size, entry.at("bytes").dump()));
      }
      if (sha256_of_file(folder / name) != entry.at("sha256").get<std::string>()) throw damaged(folder / name, "its SHA-256 is wrong");
    }
    checkpoint.state_ = json::parse(read_file(folder / "state.json"));
    checkpoint.config_ = read_file(folder / "config.yaml");
    const std::uint64_t size = files.at("tensors.bin").at("bytes").get<std::uint64_t>();
    checkpoint.mapping_ = map_file(folder / "tensors.bin", size);
    for (const json& entry : manifest.at("tensors")) {
      NamedBlob blob;
      blob.name = entry.at("name").get<std::string>();
      const auto dtype = dtype_of_name(entry.at("dtype").get<std::string>());
      if (!dtype) throw damaged(manifest_path, fmt::format("tensor '{}' has unknown dtype {}", blob.name, entry.at("dtype").dump()));
      blob.dtype = *dtype;
      blob.shape = entry.at("shape").get<std::vector<std::int64_t>>();
      const std::uint64_t offset = entry.at("offset").get<std::uint64_t>(), bytes = entry.at("bytes").get<std::uint64_t>();
      if (tensor_bytes(*dtype, blob.shape) != bytes || offset > size || bytes > size - offset) {
        throw damaged(manifest_path, fmt::format("tensor '{}' does not fit its shape or its file", blob.name));
      }
      blob.bytes = {checkpoint.mapping_.get() + offset, bytes};
      checkpoint.tensors_.push_back(std::move(blob));
    }
  } catch (const json::exception& error) {
    throw damaged(manifest_path, error.what());
  }
  return checkpoint;
}

std::optional<Checkpoint> Checkpoint::open_latest(const fs::path& directory, const std::function<void(const std::string&)>& warn) {
  std::vector<fs::path> all = list_checkpoints(directory);
  for (auto folder = all.rbegin(); folder != all.rend(); ++folder) {
    try {
      return open(*folder);
    } catch (const InputError& error) {
      if (warn) warn(fmt::format("passed over a damaged checkpoint: {}", error.what()));
    }
  }
  return std::nullopt;
}

bool Checkpoint::has(std::string_view name) const {
  return std::any_of(tensors_.begin(), tensors_.end(), [&](const NamedBlob& blob) { return blob.name == name; });
}

const NamedBlob& Checkpoint::tensor(std::string_view name) const {
  for (const NamedBlob& blob : tensors_) {
    if (blob.name == name) return blob;
  }
  throw InputError(fmt::format("checkpoint '{}' has no tensor '{}'", folder_.string(), name),
                   "it was written with another configuration; start anew with --resume never");
}

}  // namespace expctr
