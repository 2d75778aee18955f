#include <cstdio>

#include "engine/core/build_info.h"

int main() {
  std::printf("expctr_engine %s\n", expctr::engine_version);
  return 0;
}
