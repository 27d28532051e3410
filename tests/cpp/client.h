// The world of POSIX sockets: clients over the loopback interface.
#pragma once

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "port_harness.h"

namespace iocp::testing {

// Connects blocking, with a deadline; does nothing else blocking.
class LoopbackPeer final : public Peer {
 public:
  // On `fd`, an IPv4 socket, or one of its own for -1.
  LoopbackPeer(const Address& to, int fd) : fd_(fd) {
    sockaddr_storage storage{};
    const socklen_t length = ToSockaddr(to, &storage);
    if (fd_ < 0) fd_ = ::socket(storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd_ < 0) return;
    // For connect as well.
    const timeval limit{kPatience.count(), 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    // One that was interrupted (by a ring's work, too) goes on by itself; asking again tells how.
    while (::connect(fd_, reinterpret_cast<const sockaddr*>(&storage), length) != 0 &&
           errno != EISCONN) {
      if (errno == EINTR || errno == EALREADY) continue;
      const int error_number = errno;
      Close();
      errno = error_number;
      return;
    }
    sockaddr_storage here{};
    socklen_t here_length = sizeof(here);
    ::getsockname(fd_, reinterpret_cast<sockaddr*>(&here), &here_length);
    port_ =
        ntohs(here.ss_family == AF_INET ? reinterpret_cast<const sockaddr_in&>(here).sin_port
                                        : reinterpret_cast<const sockaddr_in6&>(here).sin6_port);
  }
  ~LoopbackPeer() override { Close(); }

  [[nodiscard]] bool connected() const { return fd_ >= 0; }

  std::size_t Send(std::string_view data) override {
    std::size_t sent = 0;
    while (fd_ >= 0 && sent < data.size()) {
      const ssize_t n =
          ::send(fd_, data.data() + sent, data.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) break;
      sent += static_cast<std::size_t>(n);
    }
    return sent;
  }
  std::string Receive(std::size_t most) override {
    std::string data;
    while (fd_ >= 0 && state_ == State::kOpen && data.size() < most) {
      char bytes[65536];
      const ssize_t n =
          ::recv(fd_, bytes, std::min(sizeof(bytes), most - data.size()), MSG_DONTWAIT);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
      if (n == 0) state_ = State::kEnded;
      if (n < 0) state_ = State::kReset;
      if (n > 0) data.append(bytes, static_cast<std::size_t>(n));
    }
    return data;
  }
  [[nodiscard]] State state() const override { return state_; }
  void EndStream() override { ::shutdown(fd_, SHUT_WR); }
  void Close() override {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  void Reset() override {
    const linger now{1, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    Close();
  }
  [[nodiscard]] std::uint16_t port() const override { return port_; }

 private:
  // "Any" stands for this machine here.
  static socklen_t ToSockaddr(const Address& address, sockaddr_storage* storage) {
    if (address.family == Address::Family::kIPv6) {
      auto& in6 = reinterpret_cast<sockaddr_in6&>(*storage);
      in6.sin6_family = AF_INET6;
      in6.sin6_port = htons(address.port);
      in6.sin6_scope_id = address.scope;
      std::memcpy(&in6.sin6_addr, address.bytes, sizeof(in6.sin6_addr));
      return sizeof(in6);
    }
    auto& in = reinterpret_cast<sockaddr_in&>(*storage);
    in.sin_family = AF_INET;
    in.sin_port = htons(address.port);
    std::memcpy(&in.sin_addr, address.bytes, sizeof(in.sin_addr));
    return sizeof(in);
  }

  int fd_ = -1;
  std::uint16_t port_ = 0;
  State state_ = State::kOpen;
};

class LoopbackWorld final : public World {
 public:
  LoopbackWorld(const PortKind& kind, bool required) : kind_(kind), required_(required) {
    // The suite holds both ends of a thousand connections; and few enough to use all of them up.
    constexpr rlim_t kEnough = 4096;
    ::getrlimit(RLIMIT_NOFILE, &limit_before_);
    rlimit limit = limit_before_;
    limit.rlim_cur = std::min(limit.rlim_max, kEnough);
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  ~LoopbackWorld() override {
    ExhaustDescriptors(false);
    ::setrlimit(RLIMIT_NOFILE, &limit_before_);
  }

  [[nodiscard]] const PortKind& kind() const override { return kind_; }
  [[nodiscard]] bool required() const override { return required_; }
  [[nodiscard]] bool real() const override { return true; }
  [[nodiscard]] bool has_ipv6() const override {
    const int fd = ::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in6 loopback{};
    loopback.sin6_family = AF_INET6;
    loopback.sin6_addr = in6addr_loopback;
    const bool has =
        fd >= 0 && ::bind(fd, reinterpret_cast<sockaddr*>(&loopback), sizeof(loopback)) == 0;
    if (fd >= 0) ::close(fd);
    return has;
  }
  std::unique_ptr<Peer> Connect(const Address& to) override {
    const int reserved = std::exchange(reserved_, -1);
    auto peer = std::make_unique<LoopbackPeer>(to, reserved);
    if (!peer->connected()) return nullptr;
    return peer;
  }
  void ExhaustDescriptors(bool exhausted) override {
    if (!exhausted) {
      for (const int fd : std::exchange(filling_, {})) ::close(fd);
      if (reserved_ >= 0) ::close(std::exchange(reserved_, -1));
      return;
    }
    reserved_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    // Really open, for a lower limit is not seen by what the system has already begun.
    for (int fd = 0; (fd = ::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0)) >= 0;)
      filling_.push_back(fd);
  }
  [[nodiscard]] std::size_t OpenDescriptors() const override {
    DIR* directory = ::opendir("/proc/self/fd");
    if (directory == nullptr) return 0;
    std::size_t count = 0;
    while (::readdir(directory) != nullptr) ++count;
    ::closedir(directory);
    return count;
  }

 private:
  const PortKind& kind_;
  const bool required_;
  rlimit limit_before_{};
  std::vector<int> filling_;
  int reserved_ = -1;  // for a client that connects when there are no descriptors left
};

}  // namespace iocp::testing
