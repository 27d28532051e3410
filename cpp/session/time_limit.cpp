#include "session/time_limit.h"

namespace iocp {

std::string RefuseDuration(const char* name, Duration value, bool may_be_zero) {
  const Duration shortest = may_be_zero ? Duration::zero() : std::chrono::milliseconds(1);
  // A year: longer is a mistake of units, and must not overflow a deadline.
  constexpr auto kLongest = std::chrono::hours(24 * 365);
  if (value >= shortest && value <= kLongest) return {};
  const double seconds = std::chrono::duration<double>(value).count();
  return std::string(name) + " must be " + (may_be_zero ? "at least" : "above") +
         " 0 and at most a year, in seconds, not " + std::to_string(seconds);
}

std::string RefuseTimeout(const char* name, const std::optional<Duration>& value) {
  if (!value) return {};
  std::string why = RefuseDuration(name, *value, false);
  if (!why.empty()) why += "; without a value (None) it is off";
  return why;
}

}  // namespace iocp
