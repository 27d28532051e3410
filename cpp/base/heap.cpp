#include "base/heap.h"

#include <cstddef>
#include <cstdlib>

namespace iocp {

void KeepHeapWarm() {
  constexpr std::size_t kMapped = 1024 * 1024;
  // It is never touched, so it costs two system calls and no page. It is volatile because compilers
  // remove an allocation that nobody uses.
  void* volatile mapped = std::malloc(kMapped);
  std::free(mapped);
}

}  // namespace iocp
