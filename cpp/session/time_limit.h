// How long something may last.
#pragma once

#include <atomic>
#include <optional>
#include <string>

#include "iocp/time.h"

namespace iocp {

// A timeout that may change while others look at it; without a value it is off. Any thread.
class TimeLimit {
 public:
  [[nodiscard]] std::optional<Duration> value() const {
    const Duration::rep count = count_.load(std::memory_order_relaxed);
    return count == kOff ? std::nullopt : std::optional(Duration(count));
  }
  // False when it was so already. A value is above zero.
  bool Set(const std::optional<Duration>& value) {
    const Duration::rep count = value ? value->count() : kOff;
    return count_.exchange(count, std::memory_order_relaxed) != count;
  }

 private:
  static constexpr Duration::rep kOff = 0;
  std::atomic<Duration::rep> count_{kOff};
};

// Why `value` cannot be the duration called `name`: a sentence; empty when it can. `may_be_zero`:
// true exactly when zero is a duration of its own and not a mistake.
std::string RefuseDuration(const char* name, Duration value, bool may_be_zero);
// The same for a timeout, which may be off.
std::string RefuseTimeout(const char* name, const std::optional<Duration>& value);

}  // namespace iocp
