// Session objects, kept for reuse.
#pragma once

#include <atomic>
#include <cstddef>

#include "base/mutex.h"
#include "session/session.h"

namespace iocp {

// Keeps objects for reuse up to a cap. Thread-safe; like BufferPool it goes with the last of Close
// and the last object's return.
class SessionPool {
 public:
  static SessionPool* Create(std::size_t max_free) { return new SessionPool(max_free); }
  void Close();

  // One reference, the caller's. Null when there is no memory.
  Session* Take() noexcept;
  void Return(Session* session) noexcept;

  [[nodiscard]] std::size_t free() const { return free_count_.load(std::memory_order_relaxed); }

 private:
  explicit SessionPool(std::size_t max_free) : max_free_(max_free) {}
  ~SessionPool() = default;

  const std::size_t max_free_;
  Mutex mutex_;
  Session* free_list_ IOCP_GUARDED_BY(mutex_) = nullptr;
  std::atomic<std::size_t> free_count_{0};  // written under mutex_
  std::size_t in_use_ IOCP_GUARDED_BY(mutex_) = 0;
  bool closed_ IOCP_GUARDED_BY(mutex_) = false;  // true exactly when Close was called
};

}  // namespace iocp
