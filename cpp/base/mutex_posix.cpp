#include <algorithm>

#include "base/mutex.h"

namespace iocp {
namespace {

// Presents a mutex that the caller has locked, and will unlock, as a std::unique_lock.
class Borrowed {
 public:
  explicit Borrowed(std::mutex& mutex) : lock_(mutex, std::adopt_lock) {}
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  ~Borrowed() { lock_.release(); }

  std::unique_lock<std::mutex>& lock() { return lock_; }

 private:
  std::unique_lock<std::mutex> lock_;
};

}  // namespace

void CondVar::NotifyAll() noexcept { condition_.notify_all(); }

void CondVar::WaitOnce(Mutex& mutex) noexcept {
  Borrowed borrowed(mutex.mutex_);
  condition_.wait(borrowed.lock());
}

void CondVar::WaitOnceFor(Mutex& mutex, std::chrono::nanoseconds timeout) noexcept {
  // A year at most, so that the sum with today's time cannot overflow.
  constexpr std::chrono::nanoseconds kLongest = std::chrono::hours(24 * 365);
  Borrowed borrowed(mutex.mutex_);
  condition_.wait_for(borrowed.lock(), std::min(timeout, kLongest));
}

}  // namespace iocp
