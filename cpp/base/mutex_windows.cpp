#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>

#include <algorithm>

#include "base/mutex.h"

namespace iocp {
namespace {

// SRWLOCK_INIT and CONDITION_VARIABLE_INIT stand for a null pointer.
static_assert(sizeof(SRWLOCK) == sizeof(void*) && alignof(SRWLOCK) == alignof(void*));
static_assert(sizeof(CONDITION_VARIABLE) == sizeof(void*) &&
              alignof(CONDITION_VARIABLE) == alignof(void*));

SRWLOCK* LockOf(void** word) { return reinterpret_cast<SRWLOCK*>(word); }
CONDITION_VARIABLE* ConditionOf(void** word) { return reinterpret_cast<CONDITION_VARIABLE*>(word); }

}  // namespace

void Mutex::lock() noexcept { ::AcquireSRWLockExclusive(LockOf(&word_)); }
void Mutex::unlock() noexcept { ::ReleaseSRWLockExclusive(LockOf(&word_)); }
bool Mutex::try_lock() noexcept { return ::TryAcquireSRWLockExclusive(LockOf(&word_)) != 0; }

void CondVar::NotifyAll() noexcept { ::WakeAllConditionVariable(ConditionOf(&word_)); }

void CondVar::WaitOnce(Mutex& mutex) noexcept {
  ::SleepConditionVariableSRW(ConditionOf(&word_), LockOf(&mutex.word_), INFINITE, 0);
}

void CondVar::WaitOnceFor(Mutex& mutex, std::chrono::nanoseconds timeout) noexcept {
  using std::chrono::milliseconds;
  // Whole milliseconds, upwards; a day at most, which is far below INFINITE.
  constexpr milliseconds kLongest = std::chrono::hours(24);
  const milliseconds left = std::min(std::chrono::ceil<milliseconds>(timeout), kLongest);
  ::SleepConditionVariableSRW(ConditionOf(&word_), LockOf(&mutex.word_),
                              static_cast<DWORD>(left.count()), 0);
}

}  // namespace iocp
