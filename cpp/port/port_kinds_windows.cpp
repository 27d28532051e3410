// The port of Windows.
#include <iterator>

#include "port/iocp/iocp_port.h"

namespace iocp {

PortKinds BuiltInPortKinds() {
  static constexpr const PortKind* kKinds[] = {&kIocpPortKind};
  return {kKinds, std::size(kKinds)};
}

std::vector<BackendInfo> AbsentBackends() {
  return {{"io_uring", false, "only on Linux; this is Windows"},
          {"epoll", false, "only on Linux; this is Windows"}};
}

}  // namespace iocp
