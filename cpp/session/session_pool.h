// Session objects, kept for reuse.
#pragma once

#include <atomic>
#include <cstddef>

#include "base/mutex.h"
#include "session/counters.h"
#include "session/session.h"
#include "session/timer_queue.h"

namespace iocp {

// Keeps objects for reuse up to a cap. Thread-safe; like BufferPool it goes with the last of Close
// and the last object's return.
class SessionPool {
 public:
  // `timers` is for its sessions; it is kept as long as one of them is referenced.
  static SessionPool* Create(std::size_t max_free, TimerQueue& timers) {
    return new SessionPool(max_free, timers);
  }
  void Close();

  // One reference, the caller's. Null when there is no memory.
  Session* Take() noexcept;
  void Return(Session* session) noexcept;

  // The shard's. They are here because any thread that has a connection may count, and the pool
  // lives as long as its connections.
  SharedCounters& counters() { return counters_; }

  [[nodiscard]] TimerQueue& timers() { return timers_; }
  [[nodiscard]] std::size_t free() const { return free_count_.load(std::memory_order_relaxed); }

 private:
  SessionPool(std::size_t max_free, TimerQueue& timers) : max_free_(max_free), timers_(timers) {
    timers_.AddReference();
  }
  ~SessionPool() { timers_.DropReference(); }

  const std::size_t max_free_;
  SharedCounters counters_;
  TimerQueue& timers_;
  Mutex mutex_;
  Session* free_list_ IOCP_GUARDED_BY(mutex_) = nullptr;
  std::atomic<std::size_t> free_count_{0};  // written under mutex_
  std::size_t in_use_ IOCP_GUARDED_BY(mutex_) = 0;
  bool closed_ IOCP_GUARDED_BY(mutex_) = false;  // true exactly when Close was called
};

}  // namespace iocp
