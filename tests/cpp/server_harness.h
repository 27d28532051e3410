// A handler that records its hooks, and clients, for tests of the server on the real ports.
#pragma once

#include <gtest/gtest.h>
#include <iocp/iocp.h>

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
    if (code != 0) throw std::runtime_error("connect: " + std::to_string(code));
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

// Checks the grammar of hooks while it records: a violation is a failure of the test.
class RecordingHandler : public Handler {
 public:
  struct Record {
    bool closing = false;
    bool in_hook = false;
    CloseReason reason{};
    Error error;
    std::string received;
    std::vector<std::size_t> written;
    bool ended = false;  // true exactly when the end of the peer's stream was reported
  };

  // Called in the hooks, after they were recorded and with no lock held.
  std::function<void(Connection&)> on_established;
  std::function<void(Connection&, Buffer&)> on_read;
  std::function<EndOfStream(Connection&)> on_end_of_stream;
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
      EXPECT_FALSE(records[connection.id()].ended) << "data behind the end of the stream";
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
  EndOfStream OnEndOfStream(Connection& connection) override {
    const Scope scope(*this, connection);
    {
      const std::lock_guard lock(mutex_);
      EXPECT_FALSE(std::exchange(records[connection.id()].ended, true)) << "the stream ends twice";
    }
    return on_end_of_stream ? on_end_of_stream(connection) : EndOfStream::kClose;
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
    Scope(RecordingHandler& handler, Connection& connection)
        : handler_(handler), id_(connection.id()) {
      const std::lock_guard lock(handler_.mutex_);
      Record& record = handler_.records[id_];
      EXPECT_FALSE(std::exchange(record.in_hook, true)) << "hooks of one connection overlap";
      EXPECT_FALSE(record.closing) << "a hook after closing";
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    ~Scope() {
      const std::lock_guard lock(handler_.mutex_);
      handler_.records[id_].in_hook = false;
      handler_.changed_.notify_all();
    }

   private:
    RecordingHandler& handler_;
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
