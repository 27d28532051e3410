// The world of real sockets: clients over the loopback interface.
#pragma once

#include "support/platform.h"
#ifndef _WIN32
#include <sys/resource.h>
#endif

#include <algorithm>
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
  // On `socket`, an IPv4 one, or on one of its own.
  LoopbackPeer(const Address& to, ClientSocket socket) : socket_(socket) {
    if (socket_ == kNoClientSocket) {
      socket_ = OpenSocket(to.family == Address::Family::kIPv6 ? AF_INET6 : AF_INET);
    }
    if (socket_ == kNoClientSocket) return;
    // For connect as well.
    SetTimeout(socket_, SO_SNDTIMEO, kPatience);
    const int code = ConnectSocket(socket_, to);
    if (code != 0) {
      Close();
      errno = code;
      return;
    }
    SetNonBlocking(socket_);
    port_ = LocalPort(socket_);
  }
  ~LoopbackPeer() override { Close(); }

  [[nodiscard]] bool connected() const { return socket_ != kNoClientSocket; }

  std::size_t Send(std::string_view data) override {
    std::size_t sent = 0;
    while (connected() && sent < data.size()) {
      const std::ptrdiff_t n = SendSome(socket_, data.substr(sent));
      if (n < 0 && WasInterrupted(LastSocketError())) continue;
      if (n <= 0) break;
      sent += static_cast<std::size_t>(n);
    }
    return sent;
  }
  std::string Receive(std::size_t most) override {
    std::string data;
    while (connected() && state_ == State::kOpen && data.size() < most) {
      char bytes[65536];
      const std::ptrdiff_t n =
          ReceiveSome(socket_, bytes, std::min(sizeof(bytes), most - data.size()));
      const int code = n < 0 ? LastSocketError() : 0;
      if (n < 0 && WasInterrupted(code)) continue;
      if (n < 0 && WouldBlock(code)) break;
      if (n == 0) state_ = State::kEnded;
      if (n < 0) state_ = State::kReset;
      if (n > 0) data.append(bytes, static_cast<std::size_t>(n));
    }
    return data;
  }
  [[nodiscard]] State state() const override { return state_; }
  void EndStream() override { EndSending(socket_); }
  void Close() override {
    if (connected()) CloseSocket(std::exchange(socket_, kNoClientSocket));
  }
  void Reset() override {
    if (connected()) ResetSocket(std::exchange(socket_, kNoClientSocket));
  }
  [[nodiscard]] std::uint16_t port() const override { return port_; }

 private:
  ClientSocket socket_;
  std::uint16_t port_ = 0;
  State state_ = State::kOpen;
};

class LoopbackWorld final : public World {
 public:
  LoopbackWorld(const PortKind& kind, bool required, int initial_reads)
      : kind_(kind), required_(required), initial_reads_(initial_reads) {
#ifndef _WIN32
    // The suite holds both ends of a thousand connections; and few enough to use all of them up.
    constexpr rlim_t kEnough = 4096;
    ::getrlimit(RLIMIT_NOFILE, &limit_before_);
    rlimit limit = limit_before_;
    limit.rlim_cur = std::min(limit.rlim_max, kEnough);
    ::setrlimit(RLIMIT_NOFILE, &limit);
#endif
  }
  ~LoopbackWorld() override {
#ifndef _WIN32
    ExhaustDescriptors(false);
    ::setrlimit(RLIMIT_NOFILE, &limit_before_);
#endif
  }

  [[nodiscard]] const PortKind& kind() const override { return kind_; }
  [[nodiscard]] bool required() const override { return required_; }
  [[nodiscard]] bool real() const override { return true; }
  [[nodiscard]] int initial_reads() const override { return initial_reads_; }
  [[nodiscard]] bool faithful_resets() const override { return !IsWine(); }
#ifdef _WIN32
  [[nodiscard]] bool knows_unacknowledged() const override { return false; }
  [[nodiscard]] bool sees_resets_while_paused() const override { return false; }
#else
  [[nodiscard]] bool knows_unacknowledged() const override { return true; }
  [[nodiscard]] bool sees_resets_while_paused() const override { return true; }
#endif
  [[nodiscard]] std::chrono::nanoseconds ProcessorTime() const override {
    return testing::ProcessorTime();
  }
  [[nodiscard]] bool has_ipv6() const override {
    const ClientSocket socket = OpenSocket(AF_INET6);
    if (socket == kNoClientSocket) return false;
    sockaddr_storage storage;
    const socklen_t length = ToSockaddr(Loopback(Address::Family::kIPv6, 0), &storage);
    const bool has = ::bind(socket, reinterpret_cast<const sockaddr*>(&storage), length) == 0;
    CloseSocket(socket);
    return has;
  }
  std::unique_ptr<Peer> Connect(const Address& to) override {
    const ClientSocket reserved = std::exchange(reserved_, kNoClientSocket);
    auto peer = std::make_unique<LoopbackPeer>(to, reserved);
    if (!peer->connected()) return nullptr;
    return peer;
  }
#ifdef _WIN32
  [[nodiscard]] bool has_descriptor_limit() const override { return false; }
  void ExhaustDescriptors(bool) override {}
#else
  [[nodiscard]] bool has_descriptor_limit() const override { return true; }
  void ExhaustDescriptors(bool exhausted) override {
    if (!exhausted) {
      for (const int fd : std::exchange(filling_, {})) ::close(fd);
      if (reserved_ >= 0) ::close(std::exchange(reserved_, kNoClientSocket));
      return;
    }
    reserved_ = OpenSocket(AF_INET);
    // Really open, for a lower limit is not seen by what the system has already begun.
    for (int fd = 0; (fd = ::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0)) >= 0;)
      filling_.push_back(fd);
  }
#endif
  [[nodiscard]] std::size_t OpenDescriptors() const override { return CountDescriptors(); }

 private:
  const PortKind& kind_;
  const bool required_;
  const int initial_reads_;
#ifndef _WIN32
  rlimit limit_before_{};
  std::vector<int> filling_;
#endif
  // For a client that connects when there are no descriptors left.
  ClientSocket reserved_ = kNoClientSocket;
};

// Each system's file says:
// True exactly when this system has to be able to run the port.
bool IsRequired(const PortKind& kind);
// The numbers of initial reads that make a difference on this system.
std::vector<int> InitialReads();

inline bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// One failure, whole: nothing is left behind, and the message names the step and the address.
inline void ExpectListenFailure(World& world, const ListenOptions& options, ErrorKind kind,
                                int code, const char* step, const std::string& address) {
  const std::size_t before = world.OpenDescriptors();
  NativeSocket listener = kNoSocket;
  Address bound;
  const Status status = world.kind().listen(options, &listener, &bound);
  EXPECT_EQ(world.OpenDescriptors(), before);
  const bool unresolved = std::string_view(step) == "resolve";
  EXPECT_EQ(status.problem, unresolved ? Status::Problem::kUnresolved : Status::Problem::kSystem);
  EXPECT_EQ(status.error.kind, kind) << status.message;
  if (code != 0) {
    EXPECT_EQ(status.error.code, code) << status.message;
  }
  EXPECT_NE(status.error.code, 0);
  EXPECT_TRUE(Contains(status.message, step)) << status.message;
  EXPECT_TRUE(Contains(status.message, address)) << status.message;
  EXPECT_EQ(listener, kNoSocket);
}

}  // namespace iocp::testing
