#include "base/heap.h"

#include <cstddef>
#include <cstdlib>

namespace iocp {

void KeepHeapWarm() {
  constexpr std::size_t kMapped = 1024 * 1024;
  // Never touched, so it costs two system calls and no page. Volatile, as compilers remove an
  // allocation that nobody looks at.
  void* volatile mapped = std::malloc(kMapped);
  std::free(mapped);
}

}  // namespace iocp
