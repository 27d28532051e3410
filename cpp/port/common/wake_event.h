// Wakes a worker that waits in its port: an eventfd, on Linux.
#pragma once

#include "iocp/error.h"

namespace iocp {

// Each Signal is an event of its own for a ring's poll and for edge-triggered epoll, whether or not
// anybody reads the descriptor. So nobody has to read it.
class WakeEvent {
 public:
  WakeEvent() = default;
  WakeEvent(const WakeEvent&) = delete;
  WakeEvent& operator=(const WakeEvent&) = delete;
  ~WakeEvent();

  // Once, before all else.
  Error Open();
  [[nodiscard]] int descriptor() const { return descriptor_; }
  // Any thread. Cannot fail.
  void Signal();

  // For a port that the system no longer lets wait in its own way: until somebody signals, or for
  // so long; -1 is for ever.
  void SleepUntilSignalled(int milliseconds);

 private:
  int descriptor_ = -1;
};

}  // namespace iocp
