// What one Wait of the Windows port hands out.
#pragma once

#include "port/iocp/iocp_port.h"

namespace iocp {

struct IocpPort::Batch {
  Completion* completions;
  std::size_t capacity;
  std::size_t max_bytes;
  std::size_t count = 0;
  std::size_t bytes = 0;

  [[nodiscard]] bool full() const { return count == capacity; }
  // One receive always fits, however small the bound.
  [[nodiscard]] bool HasRoomFor(const IocpOperation& operation, std::size_t received) const {
    if (full()) return false;
    return operation.kind != IocpOperation::Kind::kRead || bytes == 0 ||
           bytes + received <= max_bytes;
  }
  // An empty completion of the caller's, to be filled in.
  Completion& Add(Operation operation, Socket* socket) {
    Completion& completion = completions[count++];
    completion = Completion{};
    completion.operation = operation;
    completion.socket = socket;
    return completion;
  }
};

}  // namespace iocp
