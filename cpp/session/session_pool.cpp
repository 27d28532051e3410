#include "session/session_pool.h"

#include <new>
#include <utility>

namespace iocp {

SharedCounters& Session::shared_counters() { return pool_->counters(); }

void SessionPool::Close() {
  Session* unused = nullptr;
  bool last = false;
  {
    const MutexLock lock(mutex_);
    closed_ = true;
    unused = std::exchange(free_list_, nullptr);
    free_count_.store(0, std::memory_order_relaxed);
    last = in_use_ == 0;
  }
  while (unused != nullptr) delete std::exchange(unused, unused->next_free_);
  if (last) delete this;
}

Session* SessionPool::Take() noexcept {
  Session* session = nullptr;
  {
    const MutexLock lock(mutex_);
    ++in_use_;
    if (free_list_ != nullptr) {
      session = std::exchange(free_list_, free_list_->next_free_);
      free_count_.fetch_sub(1, std::memory_order_relaxed);
    }
  }
  if (session == nullptr) {
    session = new (std::nothrow) Session(this);
    if (session == nullptr) {
      const MutexLock lock(mutex_);
      --in_use_;
    }
    return session;
  }
  // As new: no state of the connection before can survive in a member that was forgotten.
  session->~Session();
  return new (session) Session(this);
}

void SessionPool::Return(Session* session) noexcept {
  bool keep = false;
  bool last = false;
  {
    const MutexLock lock(mutex_);
    --in_use_;
    keep = !closed_ && free_count_.load(std::memory_order_relaxed) < max_free_;
    if (keep) {
      session->next_free_ = free_list_;
      free_list_ = session;
      free_count_.fetch_add(1, std::memory_order_relaxed);
    }
    last = closed_ && in_use_ == 0;
  }
  if (!keep) delete session;
  if (last) delete this;
}

}  // namespace iocp
