// Opening a GGUF file: one pass over the metadata and the tensor list. Nothing in the file is believed before it is checked against
// the bytes that are there; sizes are computed with overflow checks.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "base/error.h"
#include "engine/io/gguf.h"
#include "engine/io/quoted.h"
#include "engine/io/utf8.h"

namespace expctr {
namespace {

constexpr std::uint64_t smallest_entry = 8 + 4 + 1;       // key length, type, one byte of value
constexpr std::uint64_t smallest_tensor = 8 + 4 + 4 + 8;  // name length, number of extents, type, offset
constexpr std::uint64_t longest_name = 65535;
constexpr int deepest_array = 4;
constexpr std::uint32_t most_extents = 4;

/// Element type of a tensor as the file numbers it. `supported` is false where only the size is known, `bytes` 0 where not even that.
struct StoredType {
  std::uint32_t id;
  const char* name;
  bool supported;
  DType dtype;
  std::uint32_t elements, bytes;
};

constexpr StoredType supported(std::uint32_t id, DType dtype) {
  const DTypeTraits traits = dtype_traits(dtype);
  return {id, traits.name, true, dtype, static_cast<std::uint32_t>(traits.block_elements), static_cast<std::uint32_t>(traits.block_bytes)};
}

constexpr StoredType known(std::uint32_t id, const char* name, std::uint32_t elements, std::uint32_t bytes) {
  return {id, name, false, DType::u8, elements, bytes};
}

constexpr StoredType stored_types[] = {
    supported(0, DType::f32),      supported(1, DType::f16),      supported(2, DType::q4_0),     supported(3, DType::q4_1),
    supported(6, DType::q5_0),     supported(7, DType::q5_1),     supported(8, DType::q8_0),     known(9, "q8_1", 32, 36),
    known(10, "q2_k", 256, 84),    known(11, "q3_k", 256, 110),   supported(12, DType::q4_k),    supported(13, DType::q5_k),
    supported(14, DType::q6_k),    known(15, "q8_k", 256, 292),   known(16, "iq2_xxs", 256, 66), known(17, "iq2_xs", 256, 74),
    known(18, "iq3_xxs", 256, 98), known(19, "iq1_s", 256, 50),   known(20, "iq4_nl", 32, 18),   known(21, "iq3_s", 256, 110),
    known(22, "iq2_s", 256, 82),   known(23, "iq4_xs", 256, 136), known(24, "i8", 1, 1),         known(25, "i16", 1, 2),
    supported(26, DType::i32),     supported(27, DType::i64),     supported(28, DType::f64),     known(29, "iq1_m", 256, 56),
    supported(30, DType::bf16),    known(34, "tq1_0", 256, 54),   known(35, "tq2_0", 256, 66),   known(39, "mxfp4", 32, 17),
};

const StoredType* stored_type(std::uint32_t id) {
  for (const StoredType& type : stored_types)
    if (type.id == id) return &type;
  return nullptr;
}

std::uint64_t scalar_bytes(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean:
      return 1;
    case GgufType::u16:
    case GgufType::i16:
      return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32:
      return 4;
    default:
      return 8;
  }
}

}  // namespace

class GgufParser {
 public:
  explicit GgufParser(const std::filesystem::path& path) {
    file_.path_ = path.string();
    file_.mapping_ = std::make_shared<const MappedFile>(path);
    bytes_ = file_.mapping_->bytes();
  }

  GgufFile parse() {
    const std::uint64_t tensors = header();
    for (std::uint64_t i = 0; i < entries_; ++i) entry();
    tensor_list(tensors);
    return std::move(file_);
  }

 private:
  [[noreturn]] void fail(const std::string& fault,
                         const char* hint = "the file is damaged or not complete; fetch or convert it again") const {
    const std::string where = reading_.empty() ? "" : ", reading " + reading_;
    throw InputError(fmt::format("{}: {} (byte {}{})", file_.path_, fault, at_, where), hint);
  }

  std::uint64_t left() const { return bytes_.size() - at_; }

  /// `count` bytes from here; moves past them.
  const std::byte* take(std::uint64_t count) {
    if (count > left()) fail(fmt::format("the file ends inside the metadata: {} bytes wanted, {} left", count, left()));
    const std::byte* data = bytes_.data() + at_;
    at_ += count;
    return data;
  }

  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }

  std::string_view text() {
    const auto length = number<std::uint64_t>();
    return {reinterpret_cast<const char*>(take(length)), length};
  }

  std::string name(const char* what) {
    const std::string_view view = text();
    if (view.empty() || view.size() > longest_name || !is_utf8(view) || view.find('\0') != view.npos)
      fail(fmt::format("{} {} is empty, longer than {} bytes or no UTF-8 text", what, quoted_text(view), longest_name));
    return std::string(view);
  }

  GgufType value_type() {
    const auto id = number<std::uint32_t>();
    if (id > static_cast<std::uint32_t>(GgufType::f64)) fail(fmt::format("unknown value type {}", id));
    return static_cast<GgufType>(id);
  }

  std::uint64_t header() {
    reading_ = "the header";
    if (bytes_.size() < 4 || std::memcmp(bytes_.data(), "GGUF", 4) != 0) {
      std::string magic;
      for (std::size_t i = 0; i < std::min<std::size_t>(4, bytes_.size()); ++i)
        magic += fmt::format("{}{:02x}", i == 0 ? "" : " ", static_cast<unsigned>(bytes_[i]));
      fail(bytes_.empty() ? "the file is empty" : fmt::format("not a GGUF file (magic {})", magic), "give a .gguf model file");
    }
    take(4);
    file_.version_ = number<std::uint32_t>();
    if (file_.version_ == 0x02000000u || file_.version_ == 0x03000000u)
      fail("a big-endian GGUF file", "convert the model on a little-endian machine");
    if (file_.version_ != 2 && file_.version_ != 3)
      fail(fmt::format("GGUF version {} is not supported", file_.version_), "versions 2 and 3 are; convert the model again");
    const auto tensors = number<std::uint64_t>();
    entries_ = number<std::uint64_t>();
    if (entries_ > left() / smallest_entry || tensors > left() / smallest_tensor)
      fail(fmt::format("the header claims {} tensors and {} metadata entries, more than {} bytes can hold", tensors, entries_, left()));
    return tensors;
  }

  /// Moves past one value; `value` is what the reader keeps of it.
  void skip(GgufType type, int depth, GgufFile::Value* value) {
    if (type == GgufType::array) {
      if (depth == deepest_array) fail(fmt::format("arrays inside arrays more than {} deep", deepest_array));
      const GgufType inner = value_type();
      const auto count = number<std::uint64_t>();
      const std::uint64_t smallest = inner == GgufType::array ? 12 : scalar_bytes(inner);
      if (count > left() / smallest)
        fail(fmt::format("the file ends inside the metadata: an array claims {} elements of type {}, more than {} bytes can hold", count,
                         gguf_type_name(inner), left()));
      if (value != nullptr) *value = {inner, true, count, bytes_.data() + at_};
      if (inner != GgufType::array && inner != GgufType::string && inner != GgufType::boolean) {
        take(count * smallest);
      } else {
        for (std::uint64_t i = 0; i < count; ++i) skip(inner, depth + 1, nullptr);
      }
      return;
    }
    if (value != nullptr) *value = {type, false, 1, bytes_.data() + at_};
    if (type == GgufType::string) {
      text();
    } else if (type == GgufType::boolean) {
      const auto flag = number<std::uint8_t>();
      if (flag > 1) fail(fmt::format("a bool with the value {}", flag));
    } else {
      take(scalar_bytes(type));
    }
  }

  void entry() {
    const std::size_t known = file_.keys_.size();
    reading_ = known == 0 ? "the first key" : "the key after " + quoted_text(file_.keys_.back());
    std::string key = name("key");
    reading_ = "key " + quoted_text(key);
    GgufFile::Value value;
    skip(value_type(), 0, &value);
    if (!file_.values_.emplace(key, value).second) fail("the key is there twice");
    file_.keys_.push_back(std::move(key));
  }

  void tensor_list(std::uint64_t count) {
    reading_.clear();
    const std::uint64_t alignment = file_.find_u32("general.alignment").value_or(32);
    if (alignment == 0 || (alignment & (alignment - 1)) != 0 || alignment > (1u << 20))
      fail(fmt::format("general.alignment is {}, not a power of two up to 2^20", alignment));

    std::vector<Pending> tensors;
    for (std::uint64_t i = 0; i < count; ++i) tensors.push_back(tensor(i, alignment));
    if (count == 0) return;

    reading_.clear();
    const std::uint64_t start = (at_ + alignment - 1) / alignment * alignment;
    const std::uint64_t room = start > bytes_.size() ? 0 : bytes_.size() - start;
    for (Pending& tensor : tensors) {
      if (tensor.offset > room || tensor.info.bytes > room - tensor.offset)
        fail(fmt::format("tensor {} needs bytes {} to {} of the data section, which has {}", quoted_text(tensor.info.name), tensor.offset,
                         tensor.offset + std::min<std::uint64_t>(tensor.info.bytes, UINT64_MAX - tensor.offset), room));
      tensor.info.data = bytes_.data() + start + tensor.offset;
    }
    refuse_overlap(tensors);
    for (Pending& tensor : tensors) {
      if (tensor.supported)
        file_.table_.add(std::move(tensor.info), file_.path_);
      else
        file_.table_.add_unsupported(std::move(tensor.info.name), tensor.type_name, file_.path_);
    }
  }

  struct Pending {
    TensorInfo info;
    std::uint64_t offset = 0;
    bool supported = false;
    std::string type_name;
  };

  Pending tensor(std::uint64_t index, std::uint64_t alignment) {
    reading_ = fmt::format("tensor {} of the list", index);
    Pending result;
    result.info.name = name("tensor name");
    reading_ = "tensor " + quoted_text(result.info.name);
    const auto rank = number<std::uint32_t>();
    if (rank > most_extents) fail(fmt::format("{} extents, at most {} are allowed", rank, most_extents));
    std::uint64_t elements = 1, width = 1;
    for (std::uint32_t i = 0; i < rank; ++i) {
      const auto extent = number<std::uint64_t>();
      if (extent > static_cast<std::uint64_t>(INT64_MAX) ||
          __builtin_mul_overflow(elements, std::max<std::uint64_t>(extent, 1), &elements) ||
          elements > static_cast<std::uint64_t>(INT64_MAX))
        fail("the product of the extents overflows");
      if (i == 0) width = extent;
      result.info.shape.insert(result.info.shape.begin(), static_cast<std::int64_t>(extent));
    }
    for (const std::int64_t extent : result.info.shape)
      if (extent == 0) elements = 0;
    const auto id = number<std::uint32_t>();
    result.offset = number<std::uint64_t>();
    if (result.offset % alignment != 0) fail(fmt::format("offset {} is no multiple of the alignment {}", result.offset, alignment));
    const StoredType* type = stored_type(id);
    result.type_name = type == nullptr ? fmt::format("number {}", id) : type->name;
    if (type == nullptr) return result;
    if (width % type->elements != 0)
      fail(fmt::format("rows of {} elements are no multiple of the {} block of {}", width, type->name, type->elements));
    std::uint64_t size = 0;
    if (__builtin_mul_overflow(elements / type->elements, std::uint64_t{type->bytes}, &size)) fail("the size in bytes overflows");
    result.info.bytes = size;
    result.supported = type->supported;
    result.info.dtype = type->dtype;
    return result;
  }

  void refuse_overlap(const std::vector<Pending>& tensors) const {
    std::vector<const Pending*> order;
    for (const Pending& tensor : tensors)
      if (tensor.info.bytes > 0) order.push_back(&tensor);
    std::sort(order.begin(), order.end(), [](const Pending* a, const Pending* b) { return a->offset < b->offset; });
    for (std::size_t i = 1; i < order.size(); ++i)
      if (order[i]->offset < order[i - 1]->offset + order[i - 1]->info.bytes)
        fail(fmt::format("tensors {} and {} overlap", quoted_text(order[i - 1]->info.name), quoted_text(order[i]->info.name)));
  }

  GgufFile file_;
  std::span<const std::byte> bytes_;
  std::uint64_t at_ = 0, entries_ = 0;
  std::string reading_;
};

GgufFile GgufFile::open(const std::filesystem::path& path) { return GgufParser(path).parse(); }

}  // namespace expctr
