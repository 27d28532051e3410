// Durations of the public API.
#pragma once

#include <chrono>

namespace iocp {

using Duration = std::chrono::nanoseconds;

}  // namespace iocp
