// A server that records its hooks, and clients for it, for tests on the real ports.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "iocp.h"

namespace iocp::testing {

inline constexpr std::chrono::seconds kDeadline{20};

// A blocking client. Every call ends by kDeadline.
class Client {
 public:
  explicit Client(const Address& address) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const timeval limit{kDeadline.count(), 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(address.port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    // An interrupted connect goes on by itself; asking again tells how it went.
    while (::connect(fd_, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) != 0 &&
           errno != EISCONN) {
      if (errno != EINTR && errno != EALREADY) {
        throw std::runtime_error("connect: " + std::to_string(errno));
      }
    }
  }
  Client(Client&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  Client& operator=(Client&&) = delete;
  ~Client() { Close(); }

  // False when the connection is broken.
  bool Send(std::string_view data) const {
    while (!data.empty()) {
      const ssize_t sent = ::send(fd_, data.data(), data.size(), MSG_NOSIGNAL);
      if (sent < 0 && errno == EINTR) continue;
      if (sent <= 0) return false;
      data.remove_prefix(static_cast<std::size_t>(sent));
    }
    return true;
  }
  // Up to `size` bytes; fewer only at the end of the stream. `error` is errno if that was no
  // orderly end.
  std::string Receive(std::size_t size, int* error = nullptr) const {
    std::string data(size, '\0');
    std::size_t have = 0;
    while (have < size) {
      const ssize_t got = ::recv(fd_, data.data() + have, size - have, 0);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && error != nullptr) *error = errno;
      if (got <= 0) break;
      have += static_cast<std::size_t>(got);
    }
    data.resize(have);
    return data;
  }
  // 0 for an orderly end of the stream, errno for anything else; data before it is dropped.
  [[nodiscard]] int WaitForEnd() const {
    char buffer[65536];
    for (;;) {
      const ssize_t got = ::recv(fd_, buffer, sizeof(buffer), 0);
      if (got == 0) return 0;
      if (got < 0 && errno != EINTR) return errno;
    }
  }
  void EndStream() const { ::shutdown(fd_, SHUT_WR); }
  void Close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  void Reset() {
    const linger now{1, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    Close();
  }
  [[nodiscard]] int fd() const { return fd_; }

 private:
  int fd_;
};

// Checks the grammar of hooks while it records: a violation is a failure of the test.
class RecordingServer : public Server {
 public:
  struct Record {
    bool closing = false;
    bool in_hook = false;
    CloseReason reason{};
    Error error;
    std::string received;
    std::vector<std::size_t> written;
  };

  ~RecordingServer() override { Shutdown(std::chrono::seconds(1)); }

  // Called in the hooks, after they were recorded and with no lock held.
  std::function<void(Connection&)> on_established;
  std::function<void(Connection&, Buffer&)> on_read;
  std::function<void(Connection&, CloseReason)> on_closing;

  template <typename Predicate>
  bool WaitFor(Predicate predicate) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kDeadline, predicate);
  }
  // For predicates: under the lock.
  std::map<std::uint64_t, Record> records;
  std::size_t closed = 0;
  std::vector<std::string> warnings;

 protected:
  void OnConnectionEstablished(Connection& connection) override {
    {
      const std::lock_guard lock(mutex_);
      EXPECT_EQ(records.count(connection.id()), 0U) << "established twice";
    }
    const Scope scope(*this, connection);
    if (on_established) on_established(connection);
  }
  void OnReadCompleted(Connection& connection, Buffer& buffer) override {
    const Scope scope(*this, connection);
    {
      const std::lock_guard lock(mutex_);
      records[connection.id()].received += buffer.view();
    }
    EXPECT_GT(buffer.size(), 0U);
    if (on_read) on_read(connection, buffer);
  }
  void OnWriteCompleted(Connection& connection, std::size_t bytes) override {
    const Scope scope(*this, connection);
    const std::lock_guard lock(mutex_);
    records[connection.id()].written.push_back(bytes);
  }
  void OnConnectionError(Connection& connection, Error error) override {
    const Scope scope(*this, connection);
    const std::lock_guard lock(mutex_);
    records[connection.id()].error = error;
  }
  void OnConnectionClosing(Connection& connection, CloseReason reason) override {
    const Scope scope(*this, connection);
    EXPECT_FALSE(connection.is_open());
    if (on_closing) on_closing(connection, reason);
    const std::lock_guard lock(mutex_);
    records[connection.id()].closing = true;
    records[connection.id()].reason = reason;
    ++closed;
  }
  void OnWarning(const std::string& message) override {
    const std::lock_guard lock(mutex_);
    warnings.push_back(message);
    changed_.notify_all();
  }

 private:
  // One hook of one connection: none other of it runs, and none after closing.
  class Scope {
   public:
    Scope(RecordingServer& server, Connection& connection) : server_(server), id_(connection.id()) {
      const std::lock_guard lock(server_.mutex_);
      Record& record = server_.records[id_];
      EXPECT_FALSE(std::exchange(record.in_hook, true)) << "hooks of one connection overlap";
      EXPECT_FALSE(record.closing) << "a hook after closing";
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    ~Scope() {
      const std::lock_guard lock(server_.mutex_);
      server_.records[id_].in_hook = false;
      server_.changed_.notify_all();
    }

   private:
    RecordingServer& server_;
    const std::uint64_t id_;
  };

  std::mutex mutex_;
  std::condition_variable changed_;
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

// For value-parameterized tests.
inline std::vector<std::string> AvailableBackends() {
  std::vector<std::string> names;
  for (const BackendInfo& info : Backends()) {
    if (info.available) names.push_back(info.name);
  }
  return names;
}

}  // namespace iocp::testing
