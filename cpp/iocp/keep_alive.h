// The times of TCP keep-alive probes.
#pragma once

#include <chrono>

#include "iocp/time.h"

namespace iocp {

struct KeepAlive {
  Duration idle = std::chrono::seconds(5);      // silence before the first probe
  Duration interval = std::chrono::seconds(1);  // between probes
};

}  // namespace iocp
