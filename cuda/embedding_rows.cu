// Look-ups in many tables in one launch: reads the ids and the rows, writes the vectors, 8 bytes an element and 4 an id; bound by memory. A
// thread copies 4 columns with one access where width, offset and stride allow it. An id past the table gathers NaN: a kernel cannot throw.
#include "base/blocks.h"
#include "cuda/embedding_lists.cuh"

namespace expctr::cuda {

namespace {

struct GatherTables {
  const float* table[most_lists];
  std::int32_t width[most_lists];
  bool vector[most_lists];                    ///< of each list
  std::int64_t first_packet[most_lists + 1];  ///< packets (4 columns, or one) before each list
};

__device__ __forceinline__ void store4(float* to, float4 v) { *reinterpret_cast<float4*>(to) = v; }
__device__ __forceinline__ void store4(std::uint16_t* to, float4 v) {
  *reinterpret_cast<ushort4*>(to) = make_ushort4(bf16_of_float(v.x), bf16_of_float(v.y), bf16_of_float(v.z), bf16_of_float(v.w));
}
__device__ __forceinline__ void store1(float* to, float v) { *to = v; }
__device__ __forceinline__ void store1(std::uint16_t* to, float v) { *to = bf16_of_float(v); }

template <class T>
__global__ void __launch_bounds__(block_threads)
    gather_many_kernel(const __grid_constant__ ListTable lists, const __grid_constant__ GatherTables tables, T* y) {
  const std::int64_t packet = static_cast<std::int64_t>(blockIdx.x) * block_threads + threadIdx.x;
  if (packet >= tables.first_packet[lists.count]) return;
  int list = 0, high = lists.count;
  while (high - list > 1) {
    const int middle = (list + high) / 2;
    (tables.first_packet[middle] <= packet ? list : high) = middle;
  }
  const int space = lists.space[list], step = tables.vector[list] ? 4 : 1;
  const std::int64_t width = tables.width[space], per_row = width / step, in_list = packet - tables.first_packet[list];
  const std::int64_t i = in_list / per_row, column = (in_list - i * per_row) * step;
  const std::int32_t id = lists.ids[list][i];
  const bool there = id >= 0 && id < lists.rows[space];
  const float missing = id < 0 ? 0.0f : NAN;
  const float* from = tables.table[space] + id * width + column;
  T* to = y + lists.offset[list] + i * lists.stride[list] + column;
  if (step == 4)
    store4(to, there ? *reinterpret_cast<const float4*>(from) : make_float4(missing, missing, missing, missing));
  else
    store1(to, there ? *from : missing);
}

template <class T>
void launch_gather(const GatherMany& args, const ListTable& lists, Stream stream) {
  GatherTables tables{};
  for (int s = 0; s < args.table_count; ++s) {
    tables.table[s] = args.tables[s].as<float>();
    tables.width[s] = static_cast<std::int32_t>(args.tables[s].width());
  }
  for (int l = 0; l < args.list_count; ++l) {
    const IdList& list = args.lists[l];
    const View& table = args.tables[list.space];
    tables.vector[l] = table.width() % 4 == 0 && list.offset % 4 == 0 && list.stride % 4 == 0 && aligned16(table.data) &&
                       reinterpret_cast<std::uintptr_t>(args.y.data) % (4 * sizeof(T)) == 0;
    tables.first_packet[l + 1] = tables.first_packet[l] + list.ids.size() * (table.width() / (tables.vector[l] ? 4 : 1));
  }
  const std::int64_t packets = tables.first_packet[args.list_count];
  if (packets == 0) return;
  gather_many_kernel<T><<<blocks_for(packets, block_threads), block_threads, 0, native(stream)>>>(lists, tables, args.y.as<T>());
  check_launch("gather_many");
}

}  // namespace

template <>
void run(const GatherMany& args, Stream stream) {
  IdSpace spaces[most_lists] = {};
  for (int s = 0; s < args.table_count && s < most_lists; ++s) {
    require_f32("gather_many", {&args.tables[s]});
    spaces[s] = {args.tables[s].rows(), -1};
  }
  const ListTable lists = list_table("gather_many", spaces, args.table_count, args.lists, args.list_count);
  for (int l = 0; l < args.list_count; ++l) {
    const IdList& list = args.lists[l];
    const std::int64_t n = list.ids.size(), width = args.tables[list.space].width();
    if (n > 0 && (list.offset < 0 || list.stride < width || list.offset + (n - 1) * list.stride + width > args.y.size()))
      throw Error("cuda: gather_many: y of " + std::to_string(args.y.size()) + " elements is shorter than the lists reach");
  }
  if (args.y.dtype == DType::bf16) return launch_gather<std::uint16_t>(args, lists, stream);
  require_f32("gather_many", {&args.y});
  launch_gather<float>(args, lists, stream);
}

}  // namespace expctr::cuda
