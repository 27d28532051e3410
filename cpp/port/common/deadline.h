// Deadlines as the systems' calls that wait take them.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "port/completion_port.h"

namespace iocp {

// How long to wait for `deadline`, in whole milliseconds, upwards, an hour at most: 0 when it has
// passed, -1 when there is none. Waiting for less than the whole time is allowed (R9).
inline int MillisecondsUntil(TimePoint deadline) {
  if (deadline == TimePoint::max()) return -1;
  const TimePoint now = std::chrono::steady_clock::now();
  // Compared, not subtracted: TimePoint::min() stands for a deadline that has long passed.
  if (deadline <= now) return 0;
  const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(deadline - now).count();
  return static_cast<int>(std::min<std::int64_t>(milliseconds, 3'600'000));
}

}  // namespace iocp
