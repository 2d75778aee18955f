#include "engine/io/npy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "engine/io/mapped_file.h"
#include "engine/io/quoted.h"

namespace expctr {
namespace {

constexpr std::string_view magic("\x93NUMPY", 6);

struct StoredType {
  const char* description;
  DType dtype;
};
constexpr StoredType stored_types[] = {
    {"<f4", DType::f32}, {"<f8", DType::f64}, {"<i8", DType::i64}, {"<i4", DType::i32}, {"|u1", DType::u8}};

struct Header {
  std::string description;
  std::optional<bool> fortran_order;
  std::optional<std::vector<std::int64_t>> shape;
};

/// The header is a Python dictionary literal of three fixed keys; nothing else of Python is understood.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, const std::string& file) : text_(text), file_(file) {}

  Header parse() {
    Header header;
    expect('{');
    while (!accept('}')) {
      const std::string key = string();
      expect(':');
      if (key == "descr" && header.description.empty())
        header.description = string();
      else if (key == "fortran_order" && !header.fortran_order)
        header.fortran_order = boolean();
      else if (key == "shape" && !header.shape)
        header.shape = tuple();
      else
        fail(fmt::format("unexpected key {}", quoted_text(key)));
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    blanks();
    if (at_ != text_.size()) fail("text after the dictionary");
    if (header.description.empty() || !header.fortran_order || !header.shape) fail("descr, fortran_order or shape is missing");
    return header;
  }

 private:
  [[noreturn]] void fail(const std::string& fault) const {
    throw InputError(fmt::format("{}: npy header: {}", file_, fault),
                     "write the array with numpy.save, in C order, as float32, float64 or int64");
  }
  void blanks() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
  }
  bool accept(char c) {
    blanks();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) fail(fmt::format("'{}' expected at character {}", c, at_));
  }
  std::string string() {
    blanks();
    const char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote != '\'' && quote != '"') fail(fmt::format("a text expected at character {}", at_));
    const std::size_t end = text_.find(quote, at_ + 1);
    if (end == text_.npos) fail("a text does not end");
    std::string result(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return result;
  }
  bool boolean() {
    blanks();
    for (const auto& [word, value] : {std::pair<std::string_view, bool>{"True", true}, {"False", false}}) {
      if (text_.substr(at_).starts_with(word)) {
        at_ += word.size();
        return value;
      }
    }
    fail("fortran_order is neither True nor False");
  }
  std::vector<std::int64_t> tuple() {
    std::vector<std::int64_t> numbers;
    expect('(');
    while (!accept(')')) {
      blanks();
      std::int64_t number = 0;
      const std::size_t first = at_;
      for (; at_ < text_.size() && std::isdigit(static_cast<unsigned char>(text_[at_])); ++at_)
        if (__builtin_mul_overflow(number, 10, &number) || __builtin_add_overflow(number, text_[at_] - '0', &number))
          fail("an extent overflows");
      if (at_ == first) fail(fmt::format("an extent expected at character {}", at_));
      numbers.push_back(number);
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
    return numbers;
  }

  std::string_view text_;
  const std::string& file_;
  std::size_t at_ = 0;
};

}  // namespace

NpyArray read_npy(const std::filesystem::path& path) {
  const MappedFile mapping(path);
  const std::string file = path.string();
  const std::string_view bytes(reinterpret_cast<const char*>(mapping.bytes().data()), mapping.bytes().size());
  const auto refuse = [&](const std::string& fault) { return InputError(file + ": " + fault, "write the array with numpy.save again"); };
  if (bytes.size() < 10 || !bytes.starts_with(magic)) throw refuse("not an npy file");
  const int version = bytes[6];
  if (version < 1 || version > 3) throw refuse(fmt::format("npy version {} is not supported", version));
  const std::size_t prefix = version == 1 ? 10 : 12;
  if (bytes.size() < prefix) throw refuse("the file ends inside the header");
  std::uint32_t length = 0;
  std::memcpy(&length, bytes.data() + 8, prefix - 8);
  if (length > bytes.size() - prefix) throw refuse(fmt::format("the header claims {} bytes, {} are left", length, bytes.size() - prefix));
  Header header = HeaderParser(bytes.substr(prefix, length), file).parse();
  if (*header.fortran_order && header.shape->size() > 1) throw refuse("the array is in Fortran order, which is not supported");

  NpyArray array;
  const auto* const type = std::find_if(std::begin(stored_types), std::end(stored_types),
                                        [&](const StoredType& candidate) { return header.description == candidate.description; });
  if (type == std::end(stored_types)) throw refuse(fmt::format("elements of type {} are not supported", quoted_text(header.description)));
  array.dtype = type->dtype;
  std::int64_t elements = 1, size = 0;
  bool empty = false;
  for (const std::int64_t extent : *header.shape) {
    empty = empty || extent == 0;
    if (__builtin_mul_overflow(elements, std::max<std::int64_t>(extent, 1), &elements)) throw refuse("the product of the shape overflows");
  }
  if (empty) elements = 0;
  if (__builtin_mul_overflow(elements, std::int64_t{dtype_traits(array.dtype).block_bytes}, &size))
    throw refuse("the size in bytes overflows");
  const std::string_view data = bytes.substr(prefix + length);
  if (data.size() != static_cast<std::uint64_t>(size))
    throw refuse(fmt::format("the shape needs {} bytes of data, the file has {}", size, data.size()));
  array.shape = *std::move(header.shape);
  array.bytes.resize(data.size());
  if (!data.empty()) std::memcpy(array.bytes.data(), data.data(), data.size());
  return array;
}

std::string serialise_npy(DType dtype, std::span<const std::int64_t> shape, const void* data) {
  const auto* const type =
      std::find_if(std::begin(stored_types), std::end(stored_types), [&](const StoredType& candidate) { return dtype == candidate.dtype; });
  if (type == std::end(stored_types))
    throw Error(fmt::format("npy cannot hold elements of type {}", dtype_name(dtype)), "convert to f32 first");
  std::string extents;
  std::int64_t elements = 1;
  for (const std::int64_t extent : shape) {
    extents += fmt::format("{}{}", extents.empty() ? "" : ", ", extent);
    elements *= extent;
  }
  if (shape.size() == 1) extents += ",";
  std::string text = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}", type->description, extents);
  text.resize((10 + text.size() + 1 + 63) / 64 * 64 - 11, ' ');
  text += '\n';
  std::string result(magic);
  result += '\x01';
  result += '\0';
  result += static_cast<char>(text.size() & 255);
  result += static_cast<char>(text.size() >> 8);
  result += text;
  const std::size_t size = dtype_bytes(dtype, elements);
  if (size > 0) result.append(static_cast<const char*>(data), size);
  return result;
}

}  // namespace expctr
