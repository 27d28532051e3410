// How the readiness port and its poller talk about sockets.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>

#include "port/completion_port.h"

namespace iocp {

// Bits: for what a socket is watched, in Socket::interest, and what the poller reports about it.
// They have the values that poll(2) gives them everywhere.
inline constexpr std::uint8_t kReadable = 1;  // receiving or accepting would not block
inline constexpr std::uint8_t kWritable = 4;  // sending would not block
inline constexpr std::uint8_t kFailed = 8;    // the connection broke
inline constexpr std::uint8_t kHungUp = 16;   // both directions have ended; only ever reported

struct Ready {
  Socket* socket = nullptr;  // null: it was closed before anybody looked
  std::uint8_t what = 0;
};

// The sockets that one look at the system has found, until they are handled. This may take several
// turns, so that a full batch does not starve the sockets at the end.
class ReadySockets {
 public:
  static constexpr std::size_t kCapacity = kBatchCompletions;

  [[nodiscard]] bool empty() const { return next_ == count_; }
  void Add(Socket& socket, std::uint8_t what) {
    assert(count_ < kCapacity);
    ready_[count_++] = {&socket, what};
  }
  // Only when not empty.
  Ready Take() { return ready_[next_++]; }
  void Clear() { next_ = count_ = 0; }
  // Its memory may be gone, or be another socket's, before its turn comes.
  void Forget(const Socket& socket) {
    for (std::size_t i = next_; i < count_; ++i) {
      if (ready_[i].socket == &socket) ready_[i].socket = nullptr;
    }
  }

 private:
  Ready ready_[kCapacity];
  std::size_t next_ = 0;
  std::size_t count_ = 0;
};

}  // namespace iocp
