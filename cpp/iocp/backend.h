// The back-ends that this library knows.
#pragma once

#include <string>
#include <vector>

namespace iocp {

struct BackendInfo {
  std::string name;
  bool available = false;
  std::string reason;  // why not, in words a user can act on; "" when available
};

// The back-ends this library knows, on any system, best first.
std::vector<BackendInfo> Backends();

}  // namespace iocp
