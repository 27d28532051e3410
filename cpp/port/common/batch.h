// The completions that one Wait hands out.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "port/completion_port.h"

namespace iocp {

// Fills the caller's completions, within the bounds of rule R9.
struct Batch {
  Completion* completions;
  std::size_t capacity;
  std::size_t max_bytes;
  std::size_t count = 0;
  std::size_t bytes = 0;  // received

  [[nodiscard]] bool full() const { return count == capacity; }
  // One receive always fits, however small the bound.
  [[nodiscard]] bool HasRoomFor(std::size_t received) const {
    return bytes == 0 || bytes + received <= max_bytes;
  }
  // An empty completion, to be filled in.
  Completion& Add(Operation operation, Socket* socket) {
    // Made anew in its place: to assign an empty one costs several times as much.
    std::destroy_at(&completions[count]);
    Completion& completion = *std::construct_at(&completions[count++]);
    completion.operation = operation;
    completion.socket = socket;
    return completion;
  }
  // Bytes of a receive that goes on.
  void AddReceived(Socket& socket, Buffer&& buffer) {
    Completion& completion = Add(Operation::kReceive, &socket);
    completion.last = false;
    completion.sequence = socket.next_sequence++;
    bytes += buffer.size();
    completion.buffer = std::move(buffer);
  }
  // The last completion of a receive.
  void AddReceiveEnd(Socket& socket, Error error) {
    Completion& completion = Add(Operation::kReceive, &socket);
    completion.error = error;
    completion.sequence = socket.next_sequence++;
  }
  void AddSent(Socket& socket, Error error, std::size_t sent) {
    Completion& completion = Add(Operation::kSend, &socket);
    completion.error = error;
    completion.bytes = sent;
  }
};

}  // namespace iocp
