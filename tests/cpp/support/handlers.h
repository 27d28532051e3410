// The two handlers of the tests: one records and checks, the other echoes and counts.
#pragma once

#include <gtest/gtest.h>
#include <iocp/iocp.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "client.h"

namespace iocp::testing {

// Checks the grammar of hooks while it records: a violation is a failure of the test.
class RecordingHandler : public Handler {
 public:
  struct Record {
    Connection* connection = nullptr;  // no reference: good until its closing hook has run
    Address remote;
    std::string received;  // without a framing
    std::vector<std::string> messages;
    std::vector<std::size_t> lists;  // how many messages each had
    std::vector<std::size_t> written;
    std::size_t writable = 0;  // how often it was reported
    bool ended = false;        // true exactly when the end of the peer's stream was reported
    Error error;
    FrameFault fault;                   // with kBadFrame
    std::optional<CloseReason> closed;  // why, once the closing hook has begun
    bool in_hook = false;               // true exactly while a hook of it runs
  };

  unsigned hooks = kHookAll;  // those that it wants
  // Called in the hooks, after they were recorded and with no lock held.
  std::function<void(Connection&)> on_established;
  std::function<void(Connection&, Buffer&)> on_read;
  std::function<void(Connection&, Message&)> on_message;
  std::function<void(Connection&, std::span<Message>)> on_messages;
  std::function<void(Connection&, std::size_t)> on_write;
  std::function<void(Connection&)> on_writable;
  std::function<EndOfStream(Connection&)> on_end_of_stream;
  std::function<void(Connection&, CloseReason)> on_closing;
  // Called when a batch of hooks begins, before the first of them.
  std::function<void()> on_batch;
  std::function<void()> on_worker_begin, on_worker_end, on_stopped;

  template <typename Predicate>
  bool WaitFor(Predicate predicate) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kDeadline, predicate);
  }
  // For predicates: under the lock.
  std::map<std::uint64_t, Record> records;  // by the connection's id
  std::size_t closed = 0;                   // closing hooks that have ended
  std::vector<std::string> warnings;
  std::vector<std::pair<TlsFailure, std::string>> failed_handshakes;

  [[nodiscard]] unsigned WantedHooks() const override { return hooks; }
  void OnConnectionEstablished(Connection& connection) override {
    {
      const std::lock_guard lock(mutex_);
      Record& record = records[connection.id()];
      EXPECT_EQ(record.connection, nullptr) << "established twice";
      record.connection = &connection;
      record.remote = connection.remote_address();
    }
    const Scope scope(*this, connection);
    if (on_established) on_established(connection);
  }
  void OnReadCompleted(Connection& connection, Buffer& buffer) override {
    const Scope scope(*this, connection);
    scope.Note([&](Record& record) {
      EXPECT_FALSE(record.ended) << "data behind the end of the stream";
      record.received += buffer.view();
    });
    EXPECT_GT(buffer.size(), 0U);
    if (on_read) on_read(connection, buffer);
  }
  void OnMessage(Connection& connection, Message& message) override {
    const Scope scope(*this, connection);
    scope.Note([&](Record& record) {
      EXPECT_FALSE(record.ended) << "a message behind the end of the stream";
      record.messages.emplace_back(message.view());
    });
    if (on_message) on_message(connection, message);
  }
  void OnMessages(Connection& connection, std::span<Message> messages) override {
    const Scope scope(*this, connection);
    EXPECT_FALSE(messages.empty());
    scope.Note([&](Record& record) {
      EXPECT_FALSE(record.ended) << "messages behind the end of the stream";
      for (Message& message : messages) record.messages.emplace_back(message.view());
      record.lists.push_back(messages.size());
    });
    if (on_messages) on_messages(connection, messages);
  }
  void OnWriteCompleted(Connection& connection, std::size_t bytes) override {
    const Scope scope(*this, connection);
    scope.Note([&](Record& record) { record.written.push_back(bytes); });
    if (on_write) on_write(connection, bytes);
  }
  void OnConnectionWritable(Connection& connection) override {
    const Scope scope(*this, connection);
    scope.Note([](Record& record) {
      EXPECT_EQ(record.error.kind, ErrorKind::kNone) << "writable, and broken";
      ++record.writable;
    });
    if (on_writable) on_writable(connection);
  }
  EndOfStream OnEndOfStream(Connection& connection) override {
    const Scope scope(*this, connection);
    scope.Note([&](Record& record) {
      EXPECT_FALSE(std::exchange(record.ended, true)) << "the stream ends twice";
    });
    return on_end_of_stream ? on_end_of_stream(connection) : EndOfStream::kClose;
  }
  void OnConnectionError(Connection& connection, Error error) override {
    const Scope scope(*this, connection);
    scope.Note([&](Record& record) {
      EXPECT_EQ(record.error.kind, ErrorKind::kNone) << "broken twice";
      record.error = error;
      record.fault = connection.frame_fault();
    });
  }
  void OnConnectionClosing(Connection& connection, CloseReason reason) override {
    const Scope scope(*this, connection);
    EXPECT_FALSE(connection.is_open());
    scope.Note([&](Record& record) { record.closed = reason; });
    if (on_closing) on_closing(connection, reason);
    const std::lock_guard lock(mutex_);
    ++closed;
  }
  void OnHandshakeFailed(Connection&, TlsFailure failure, std::string_view why) override {
    const std::lock_guard lock(mutex_);
    failed_handshakes.emplace_back(failure, why);
    changed_.notify_all();
  }
  void OnWarning(const std::string& message) override {
    const std::lock_guard lock(mutex_);
    warnings.push_back(message);
    changed_.notify_all();
  }
  void OnBatchBegin() override {
    if (on_batch) on_batch();
  }
  void OnWorkerBegin() override {
    if (on_worker_begin) on_worker_begin();
  }
  void OnWorkerEnd() override {
    if (on_worker_end) on_worker_end();
  }
  void OnStopped() override {
    if (on_stopped) on_stopped();
  }

 private:
  // One hook of one connection: none other of it runs, none came before it was established, and
  // none after closing.
  class Scope {
   public:
    Scope(RecordingHandler& handler, Connection& connection)
        : handler_(handler), id_(connection.id()) {
      Note([&](Record& record) {
        EXPECT_FALSE(std::exchange(record.in_hook, true)) << "hooks of one connection overlap";
        EXPECT_FALSE(record.closed) << "a hook after closing";
        EXPECT_EQ(record.connection, &connection);
      });
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    ~Scope() {
      Note([](Record& record) { record.in_hook = false; });
      handler_.changed_.notify_all();
    }

    template <typename Change>
    void Note(Change change) const {
      const std::lock_guard lock(handler_.mutex_);
      change(handler_.records[id_]);
    }

   private:
    RecordingHandler& handler_;
    const std::uint64_t id_;
  };

  std::mutex mutex_;
  std::condition_variable changed_;
};

// Allocates nothing of its own, and takes no lock.
class EchoHandler : public Handler {
 public:
  std::atomic<int> established{0};
  std::atomic<int> closed{0};

  void OnConnectionEstablished(Connection&) override { ++established; }
  void OnReadCompleted(Connection& connection, Buffer& buffer) override { connection.Send(buffer); }
  void OnConnectionClosing(Connection&, CloseReason) override { ++closed; }
};

}  // namespace iocp::testing
