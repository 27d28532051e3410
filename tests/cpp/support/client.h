// A blocking client of a server under test, and waiting with a deadline.
#pragma once

#include <iocp/iocp.h>

#include <chrono>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "platform.h"

namespace iocp::testing {

inline constexpr std::chrono::seconds kDeadline{20};

// A blocking client. Every call ends by kDeadline.
class Client {
 public:
  explicit Client(const Address& address) : socket_(OpenSocket(AF_INET)) {
    SetTimeout(socket_, SO_RCVTIMEO, kDeadline);
    SetTimeout(socket_, SO_SNDTIMEO, kDeadline);
    const int code = ConnectSocket(socket_, Loopback(Address::Family::kIPv4, address.port));
    if (code == 0) return;
    Close();
    throw std::runtime_error("connect: " + std::to_string(code));
  }
  Client(Client&& other) noexcept : socket_(std::exchange(other.socket_, kNoClientSocket)) {}
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  Client& operator=(Client&&) = delete;
  ~Client() { Close(); }

  // False when the connection is broken, or the peer takes nothing for too long.
  bool Send(std::string_view data) const {
    while (!data.empty()) {
      const std::ptrdiff_t sent = SendSome(socket_, data);
      if (sent < 0 && WasInterrupted(LastSocketError())) continue;
      if (sent <= 0) return false;
      data.remove_prefix(static_cast<std::size_t>(sent));
    }
    return true;
  }
  // Up to `size` bytes; fewer only at the end of the stream. `error` is the system's code if that
  // was no orderly end.
  std::string Receive(std::size_t size, int* error = nullptr) const {
    std::string data(size, '\0');
    std::size_t have = 0;
    while (have < size) {
      const std::ptrdiff_t got = ReceiveSome(socket_, data.data() + have, size - have);
      const int code = got < 0 ? LastSocketError() : 0;
      if (got < 0 && WasInterrupted(code)) continue;
      if (got < 0 && error != nullptr) *error = code;
      if (got <= 0) break;
      have += static_cast<std::size_t>(got);
    }
    data.resize(have);
    return data;
  }
  // 0 for an orderly end of the stream, the system's code for anything else; data before it is
  // dropped.
  [[nodiscard]] int WaitForEnd() const {
    char buffer[65536];
    for (;;) {
      const std::ptrdiff_t got = ReceiveSome(socket_, buffer, sizeof(buffer));
      if (got == 0) return 0;
      const int code = got < 0 ? LastSocketError() : 0;
      if (got < 0 && !WasInterrupted(code)) return code;
    }
  }
  // How long a Send waits for the peer to take something.
  void SetPatience(std::chrono::milliseconds patience) const {
    SetTimeout(socket_, SO_SNDTIMEO, patience);
  }
  void EndStream() const { EndSending(socket_); }
  void Close() {
    if (socket_ != kNoClientSocket) CloseSocket(std::exchange(socket_, kNoClientSocket));
  }
  void Reset() { ResetSocket(std::exchange(socket_, kNoClientSocket)); }

 private:
  ClientSocket socket_;
};

// Polls what has no event, up to the deadline.
template <typename Predicate>
bool Eventually(Predicate predicate) {
  const auto deadline = std::chrono::steady_clock::now() + kDeadline;
  while (!predicate()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

}  // namespace iocp::testing
