// Runs of this folder write some hundred small files, each flushed to the disk: on a busy disk that takes longer than everything else.
// Where there is a file system in memory, temporary folders lie there, unless TMPDIR says otherwise.
#include <unistd.h>

#include <cstdlib>

namespace {

[[maybe_unused]] const bool moved = [] {
  const char* memory = "/dev/shm";
  return ::access(memory, W_OK | X_OK) == 0 && ::setenv("TMPDIR", memory, 0) == 0;
}();

}  // namespace
