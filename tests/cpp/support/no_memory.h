// A heap that can be made empty. A program that links no_memory.cpp has its operators new and
// delete replaced.
#pragma once

namespace iocp::testing {

// While one lives there is no memory, for any thread. One at a time.
class NoMemory {
 public:
  NoMemory();
  NoMemory(const NoMemory&) = delete;
  NoMemory& operator=(const NoMemory&) = delete;
  ~NoMemory() { End(); }

  // Before that, from any thread.
  static void End();
};

}  // namespace iocp::testing
