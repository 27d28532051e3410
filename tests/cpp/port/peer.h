// A client of a server under test, whatever network is between them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace iocp::testing {

// The far end of a connection, a client's. Nothing blocks.
class Peer {
 public:
  enum class State : std::uint8_t { kOpen, kEnded, kReset };

  Peer() = default;
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;
  virtual ~Peer() = default;  // closes in order

  // How many bytes were taken; 0 when none fits, or the connection is broken or closed.
  virtual std::size_t Send(std::string_view data) = 0;
  // Up to `most` bytes of what has arrived.
  virtual std::string Receive(std::size_t most) = 0;
  // The state that the last Receive found behind the data.
  [[nodiscard]] virtual State state() const = 0;
  virtual void EndStream() = 0;
  virtual void Close() = 0;
  virtual void Reset() = 0;
  [[nodiscard]] virtual std::uint16_t port() const = 0;
};

}  // namespace iocp::testing
