#pragma once

#include <iocp/iocp.h>

#include <string>
#include <vector>

namespace iocp::testing {

// For value-parameterized tests.
inline std::vector<std::string> AvailableBackends() {
  std::vector<std::string> names;
  for (const BackendInfo& info : Backends()) {
    if (info.available) names.push_back(info.name);
  }
  return names;
}

}  // namespace iocp::testing
