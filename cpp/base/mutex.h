// Mutex, MutexLock and CondVar: the engine's locks, with annotations that clang checks.
#pragma once

#include <chrono>

#ifndef _WIN32
#include <condition_variable>
#include <mutex>
#endif

// `make thread-safety` checks these: https://clang.llvm.org/docs/ThreadSafetyAnalysis.html
#ifdef __clang__
#define IOCP_THREAD_SAFETY(attribute) __attribute__((attribute))
#else
#define IOCP_THREAD_SAFETY(attribute)
#endif
// A member: only touched while the mutex is held.
#define IOCP_GUARDED_BY(mutex) IOCP_THREAD_SAFETY(guarded_by(mutex))
// A function: only called while the mutex is held.
#define IOCP_REQUIRES(mutex) IOCP_THREAD_SAFETY(requires_capability(mutex))
// A function that returns the mutex.
#define IOCP_RETURN_CAPABILITY(mutex) IOCP_THREAD_SAFETY(lock_returned(mutex))

namespace iocp {

// Locking never allocates or throws. Unlocking does not touch the mutex once another thread can
// lock it, so that thread may free it. std::mutex does not promise this everywhere; the one of
// winpthreads does neither.
class IOCP_THREAD_SAFETY(capability("mutex")) Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

#ifdef _WIN32
  void lock() noexcept IOCP_THREAD_SAFETY(acquire_capability());
  void unlock() noexcept IOCP_THREAD_SAFETY(release_capability());
  bool try_lock() noexcept IOCP_THREAD_SAFETY(try_acquire_capability(true));

 private:
  friend class CondVar;
  void* word_ = nullptr;  // a SRWLOCK, without <windows.h> in every file of the engine
#else
  void lock() noexcept IOCP_THREAD_SAFETY(acquire_capability()) { mutex_.lock(); }
  void unlock() noexcept IOCP_THREAD_SAFETY(release_capability()) { mutex_.unlock(); }
  bool try_lock() noexcept IOCP_THREAD_SAFETY(try_acquire_capability(true)) {
    return mutex_.try_lock();
  }

 private:
  friend class CondVar;
  std::mutex mutex_;
#endif
};

// Holds a mutex for as long as it lives, except between Unlock and Lock.
class IOCP_THREAD_SAFETY(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) noexcept IOCP_THREAD_SAFETY(acquire_capability(mutex))
      : mutex_(mutex) {
    mutex_.lock();
  }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;
  ~MutexLock() IOCP_THREAD_SAFETY(release_capability()) {
    if (held_) mutex_.unlock();
  }

  void Unlock() noexcept IOCP_THREAD_SAFETY(release_capability()) {
    held_ = false;
    mutex_.unlock();
  }
  void Lock() noexcept IOCP_THREAD_SAFETY(acquire_capability()) {
    mutex_.lock();
    held_ = true;
  }

 private:
  Mutex& mutex_;
  bool held_ = true;  // true exactly when this holds the mutex
};

// A condition variable for Mutex, with the same promises.
class CondVar {
 public:
  CondVar() = default;
  CondVar(const CondVar&) = delete;
  CondVar& operator=(const CondVar&) = delete;

  void NotifyAll() noexcept;

  // Waits until `condition()` is true. It is called while the mutex is held.
  template <typename Condition>
  void Wait(Mutex& mutex, Condition condition) IOCP_REQUIRES(mutex) {
    while (!condition()) WaitOnce(mutex);
  }
  // The same, but for `timeout` at most. Returns the last answer of the condition.
  template <typename Condition>
  bool WaitFor(Mutex& mutex, std::chrono::nanoseconds timeout, Condition condition)
      IOCP_REQUIRES(mutex) {
    const auto begin = std::chrono::steady_clock::now();
    while (!condition()) {
      const auto waited = std::chrono::steady_clock::now() - begin;
      if (waited >= timeout) return false;
      WaitOnceFor(mutex, timeout - waited);
    }
    return true;
  }

 private:
  // It may return for no reason.
  void WaitOnce(Mutex& mutex) noexcept IOCP_REQUIRES(mutex);
  void WaitOnceFor(Mutex& mutex, std::chrono::nanoseconds timeout) noexcept IOCP_REQUIRES(mutex);

#ifdef _WIN32
  void* word_ = nullptr;  // a CONDITION_VARIABLE
#else
  std::condition_variable condition_;
#endif
};

}  // namespace iocp
