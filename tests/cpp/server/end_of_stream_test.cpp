// What follows when a client has finished sending, on the real ports of this system: the hook, a
// connection that is kept open for an answer, and its end.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "support/backends.h"
#include "support/client.h"
#include "support/handlers.h"

namespace iocp {
namespace {

using namespace std::chrono_literals;
using testing::Client;
using testing::Eventually;
using testing::IsReset;
using testing::RecordingHandler;

std::string Pattern(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::string data(size, '\0');
  for (char& c : data) c = static_cast<char>(random());
  return data;
}

// Ends the hooks before what they refer to goes out of scope.
struct Stopper {
  Server& server;
  ~Stopper() { server.Shutdown(Duration::zero()); }
};

EndOfStream KeepOpen(Connection&) { return EndOfStream::kKeepOpen; }

void Send(Connection& connection, std::string_view data) {
  EXPECT_EQ(connection.Send(data.data(), data.size()), SendResult::kAccepted);
}

class HalfCloseHandler : public RecordingHandler {
 public:
  std::function<void(Connection&)> on_written;
  std::atomic<unsigned> failed_hooks{0};  // those that an exception has left, as bits
  bool forgives = false;                  // true exactly when such a connection is not aborted
  unsigned wanted = kHookAll;

  void OnWriteCompleted(Connection& connection, std::size_t size) override {
    RecordingHandler::OnWriteCompleted(connection, size);
    if (on_written) on_written(connection);
  }
  void OnHookError(Connection& connection, Hook hook, const std::exception_ptr& error) override {
    failed_hooks |= hook;
    if (!forgives) RecordingHandler::OnHookError(connection, hook, error);
  }
  [[nodiscard]] unsigned WantedHooks() const override { return wanted; }
};

class HalfCloseTest : public ::testing::TestWithParam<std::string> {
 protected:
  Options On(int workers = 1) {
    Options options;
    options.backend = GetParam();
    options.port = 0;
    options.workers = workers;
    return options;
  }
  void Start(const Options& options) {
    const Status status = server_.Start(options);
    ASSERT_TRUE(status.ok()) << status.message;
  }
  // The record of the one connection there was.
  RecordingHandler::Record& Only() {
    EXPECT_EQ(handler_.records.size(), 1U);
    return handler_.records.begin()->second;
  }
  bool WaitForClosed(std::size_t count = 1) {
    return handler_.WaitFor([&] { return handler_.closed == count; });
  }
  bool WaitForEnded(std::size_t count = 1) {
    return handler_.WaitFor([&] {
      std::size_t ended = 0;
      for (const auto& [id, record] : handler_.records) ended += record.ended ? 1 : 0;
      return ended >= count;
    });
  }
  // The one connection that is open.
  ConnectionPtr OnlyOpen() {
    const auto connections = server_.connections();
    EXPECT_EQ(connections.size(), 1U);
    return connections.at(0);
  }

  HalfCloseHandler handler_;
  Server server_{handler_};
};

TEST_P(HalfCloseTest, TheHookAnswersWhatItHasHadInFull) {
  const std::string request = Pattern(1'000'000, 1);
  handler_.on_end_of_stream = [&](Connection& connection) {
    EXPECT_EQ(connection.bytes_received(), request.size());
    EXPECT_TRUE(connection.is_open());
    Send(connection, "all of it");
    connection.Close();
    return EndOfStream::kKeepOpen;
  };
  Start(On());
  const Stopper stopper{server_};
  const Client client(server_.address());
  ASSERT_TRUE(client.Send(request));
  client.EndStream();
  int error = 0;
  EXPECT_EQ(client.Receive(100, &error), "all of it");
  EXPECT_EQ(error, 0);
  ASSERT_TRUE(WaitForClosed());
  EXPECT_TRUE(Only().received == request);
  EXPECT_TRUE(Only().ended);
  EXPECT_EQ(Only().closed, CloseReason::kLocalClose);
  EXPECT_EQ(Only().error.kind, ErrorKind::kNone);
}

TEST_P(HalfCloseTest, AnotherThreadAnswersLater) {
  handler_.on_end_of_stream = KeepOpen;
  Start(On());
  const Stopper stopper{server_};
  const Client client(server_.address());
  client.Send("question");
  client.EndStream();
  ASSERT_TRUE(WaitForEnded());
  {
    // Another client's round trip: time in which a mistake would have shown.
    const Client other(server_.address());
    other.EndStream();
    ASSERT_TRUE(WaitForEnded(2));
    for (const ConnectionPtr& connection : server_.connections()) {
      EXPECT_TRUE(connection->is_open());
      if (connection->bytes_received() == 0) connection->Close();
    }
    EXPECT_EQ(other.WaitForEnd(), 0);
    ASSERT_TRUE(WaitForClosed());
  }
  const ConnectionPtr connection = OnlyOpen();
  for (int i = 0; i < 10; ++i) {
    Send(*connection, "part ");
    EXPECT_EQ(client.Receive(5), "part ");
  }
  connection->Close();
  EXPECT_EQ(connection->Send("x", 1), SendResult::kClosed);
  EXPECT_EQ(client.WaitForEnd(), 0);
  ASSERT_TRUE(WaitForClosed(2));
  EXPECT_EQ(handler_.records[connection->id()].closed, CloseReason::kLocalClose);
}

// Several pieces are under way at any time, so the backlog stays above the high mark.
TEST_P(HalfCloseTest, ALargeAnswerArrivesWholeAndThenTheEnd) {
  constexpr std::size_t kPiece = 100'000;
  const std::string answer = Pattern(80 * kPiece, 2);
  std::size_t next = 0;
  const auto send_next = [&](Connection& connection) {
    if (next == answer.size()) return;
    Send(connection, std::string_view(answer).substr(next, kPiece));
    next += kPiece;
    if (next == answer.size()) connection.Close();
  };
  handler_.on_written = send_next;
  handler_.on_end_of_stream = [&](Connection& connection) {
    for (int i = 0; i < 4; ++i) send_next(connection);
    return EndOfStream::kKeepOpen;
  };
  Start(On());
  const Stopper stopper{server_};
  const Client client(server_.address());
  const std::string request = Pattern(300'000, 3);
  client.Send(request);
  client.EndStream();
  int error = 0;
  EXPECT_TRUE(client.Receive(answer.size() + 1, &error) == answer);
  EXPECT_EQ(error, 0);
  ASSERT_TRUE(WaitForClosed());
  EXPECT_TRUE(Only().received == request);
  EXPECT_EQ(Only().written, std::vector(80, kPiece));
  EXPECT_EQ(Only().closed, CloseReason::kLocalClose);
  EXPECT_EQ(server_.stats().buffers_in_use, 0U);
}

TEST_P(HalfCloseTest, WithoutAWordTheConnectionClosesBehindTheAnswer) {
  const std::string answer = Pattern(3'000'000, 4);
  handler_.on_end_of_stream = [&](Connection& connection) {
    Send(connection, answer);
    return EndOfStream::kClose;
  };
  Start(On());
  const Stopper stopper{server_};
  const Client client(server_.address());
  client.Send("x");
  client.EndStream();
  int error = 0;
  EXPECT_TRUE(client.Receive(answer.size() + 1, &error) == answer);
  EXPECT_EQ(error, 0);
  ASSERT_TRUE(WaitForClosed());
  EXPECT_EQ(Only().closed, CloseReason::kPeerClosed);
}

TEST_P(HalfCloseTest, WithoutTheHookTheConnectionCloses) {
  handler_.wanted = kHookAll & ~static_cast<unsigned>(kHookEndOfStream);
  handler_.on_end_of_stream = KeepOpen;
  handler_.on_read = [](Connection& connection, Buffer&) { Send(connection, "answer"); };
  Start(On());
  const Stopper stopper{server_};
  const Client client(server_.address());
  client.Send("x");
  client.EndStream();
  EXPECT_EQ(client.Receive(100), "answer");
  ASSERT_TRUE(WaitForClosed());
  EXPECT_FALSE(Only().ended);
  EXPECT_EQ(Only().closed, CloseReason::kPeerClosed);
}

TEST_P(HalfCloseTest, AbortResets) {
  handler_.on_end_of_stream = [](Connection& connection) {
    Send(connection, "never mind");
    connection.Abort();
    return EndOfStream::kKeepOpen;
  };
  Start(On());
  const Stopper stopper{server_};
  const Client client(server_.address());
  client.Send("x");
  client.EndStream();
  EXPECT_TRUE(IsReset(client.WaitForEnd()));
  ASSERT_TRUE(WaitForClosed());
  EXPECT_EQ(Only().closed, CloseReason::kLocalAbort);
}

TEST_P(HalfCloseTest, TheHookWaitsWhileReadingIsPaused) {
  std::atomic<bool> paused{false};
  handler_.on_read = [&](Connection& connection, Buffer&) {
    if (!paused.exchange(true)) connection.PauseReading();
  };
  handler_.on_end_of_stream = KeepOpen;
  Options options = On();
  options.buffer_size = 4096;
  Start(options);
  const Stopper stopper{server_};
  const Client client(server_.address());
  const std::string request = Pattern(50'000, 5);
  client.Send(request);
  client.EndStream();
  ASSERT_TRUE(Eventually([&] { return paused.load(); }));
  const ConnectionPtr connection = OnlyOpen();
  {
    const Client other(server_.address());
    other.EndStream();
    ASSERT_TRUE(WaitForEnded());
  }
  ASSERT_TRUE(handler_.WaitFor([&] {
    EXPECT_FALSE(handler_.records[connection->id()].ended);
    return true;
  }));
  connection->ResumeReading();
  ASSERT_TRUE(WaitForEnded(2));
  EXPECT_TRUE(handler_.records[connection->id()].received == request);
  EXPECT_TRUE(connection->is_open());
}

TEST_P(HalfCloseTest, TheHookWaitsForDataThatFlowControlHasDeferred) {
  const std::string answer = Pattern(30'000'000, 6);
  std::atomic<bool> answered{false};
  handler_.on_read = [&](Connection& connection, Buffer&) {
    if (!answered.exchange(true)) Send(connection, answer);
  };
  handler_.on_end_of_stream = [](Connection& connection) {
    Send(connection, "end");
    connection.Close();
    return EndOfStream::kKeepOpen;
  };
  Start(On());
  const Stopper stopper{server_};
  const Client client(server_.address());
  client.Send("first");
  ASSERT_TRUE(Eventually([&] { return answered.load(); }));
  client.Send("second");
  client.EndStream();
  int error = 0;
  EXPECT_TRUE(client.Receive(answer.size() + 100, &error) == answer + "end");
  EXPECT_EQ(error, 0);
  ASSERT_TRUE(WaitForClosed());
  EXPECT_EQ(Only().received, "firstsecond");
}

TEST_P(HalfCloseTest, AConnectionThatBreaksHasNoEndOfStream) {
  handler_.on_read = [](Connection& connection, Buffer&) { Send(connection, "y"); };
  handler_.on_end_of_stream = KeepOpen;
  Start(On());
  const Stopper stopper{server_};
  Client client(server_.address());
  client.Send("x");
  EXPECT_EQ(client.Receive(1), "y");
  client.Reset();
  ASSERT_TRUE(WaitForClosed());
  EXPECT_FALSE(Only().ended);
  EXPECT_EQ(Only().closed, CloseReason::kError);
}

TEST_P(HalfCloseTest, AClientThatNeverSentAByteHasOneOnlyIfItWasReported) {
  for (const EstablishedOn when : {EstablishedOn::kFirstData, EstablishedOn::kConnect}) {
    handler_.on_end_of_stream = [](Connection& connection) {
      EXPECT_EQ(connection.bytes_received(), 0U);
      return EndOfStream::kClose;
    };
    Options options = On();
    options.established_on = when;
    Start(options);
    const Client client(server_.address());
    client.EndStream();
    EXPECT_EQ(client.WaitForEnd(), 0);
    server_.Shutdown(1s);
    EXPECT_EQ(server_.stats().accepted, 1U);
    if (when == EstablishedOn::kFirstData) {
      EXPECT_TRUE(handler_.records.empty());
    } else {
      EXPECT_TRUE(Only().ended);
      EXPECT_EQ(Only().closed, CloseReason::kPeerClosed);
    }
  }
}

TEST_P(HalfCloseTest, AConnectionThatWasClosedBeforeHasNone) {
  handler_.on_read = [](Connection& connection, Buffer&) { connection.Close(); };
  handler_.on_end_of_stream = KeepOpen;
  Start(On());
  const Stopper stopper{server_};
  const Client client(server_.address());
  client.Send("x");
  EXPECT_EQ(client.WaitForEnd(), 0);
  client.EndStream();
  ASSERT_TRUE(WaitForClosed());
  EXPECT_FALSE(Only().ended);
  EXPECT_EQ(Only().closed, CloseReason::kLocalClose);
}

TEST_P(HalfCloseTest, AnExceptionInTheHookEndsTheConnection) {
  handler_.on_end_of_stream = [](Connection& connection) -> EndOfStream {
    Send(connection, "half an answer");
    throw std::runtime_error("by intention");
  };
  Start(On());
  const Stopper stopper{server_};
  {
    const Client client(server_.address());
    client.EndStream();
    EXPECT_TRUE(IsReset(client.WaitForEnd()));
    ASSERT_TRUE(WaitForClosed());
    EXPECT_EQ(handler_.failed_hooks, kHookEndOfStream);
    EXPECT_EQ(Only().closed, CloseReason::kHookError);
  }
  handler_.forgives = true;
  const Client client(server_.address());
  client.EndStream();
  int error = 0;
  EXPECT_EQ(client.Receive(100, &error), "half an answer");
  EXPECT_EQ(error, 0);
  ASSERT_TRUE(WaitForClosed(2));
  EXPECT_EQ(handler_.records.rbegin()->second.closed, CloseReason::kPeerClosed);
}

TEST_P(HalfCloseTest, TimeoutsGoOn) {
  handler_.on_end_of_stream = KeepOpen;
  Options options = On();
  options.idle_timeout = 200ms;
  Start(options);
  const Client idle(server_.address());
  idle.EndStream();
  EXPECT_EQ(idle.WaitForEnd(), 0);
  ASSERT_TRUE(WaitForClosed());
  EXPECT_TRUE(Only().ended);
  EXPECT_EQ(Only().closed, CloseReason::kIdleTimeout);
  server_.Shutdown(1s);

  const std::string data(50'000'000, 'w');
  handler_.on_end_of_stream = [&](Connection& connection) {
    Send(connection, data);
    return EndOfStream::kKeepOpen;
  };
  options.idle_timeout.reset();
  options.write_timeout = 200ms;
  Start(options);
  const Stopper stopper{server_};
  const Client stuck(server_.address());
  stuck.EndStream();
  ASSERT_TRUE(WaitForClosed(2));
  EXPECT_EQ(handler_.records.rbegin()->second.closed, CloseReason::kWriteTimeout);
}

TEST_P(HalfCloseTest, FirstDataTimeoutIsOverWithTheEnd) {
  handler_.on_end_of_stream = KeepOpen;
  Options options = On();
  options.first_data_timeout = 200ms;
  Start(options);
  const Stopper stopper{server_};
  const Client listener(server_.address());
  listener.EndStream();
  ASSERT_TRUE(WaitForEnded());
  // This one is younger, and its time is up.
  const Client silent(server_.address());
  EXPECT_EQ(silent.WaitForEnd(), 0);
  ASSERT_TRUE(WaitForClosed());
  EXPECT_EQ(handler_.records.rbegin()->second.closed, CloseReason::kFirstDataTimeout);
  const ConnectionPtr connection = OnlyOpen();
  Send(*connection, "news");
  connection->Close();
  EXPECT_EQ(listener.Receive(100), "news");
}

TEST_P(HalfCloseTest, AClientThatResetsBehindItsEndIsNoticedWhileSending) {
  handler_.on_end_of_stream = KeepOpen;
  Start(On());
  const Stopper stopper{server_};
  Client client(server_.address());
  client.Send("x");
  client.EndStream();
  ASSERT_TRUE(WaitForEnded());
  const ConnectionPtr connection = OnlyOpen();
  client.Reset();
  EXPECT_TRUE(Eventually([&] { return connection->Send("y", 1) != SendResult::kAccepted; }));
  ASSERT_TRUE(WaitForClosed());
  EXPECT_EQ(Only().error.kind, ErrorKind::kReset);
  EXPECT_EQ(Only().closed, CloseReason::kError);
}

TEST_P(HalfCloseTest, ShutdownClosesThemInTime) {
  const std::string much(50'000'000, 'm');
  std::atomic<bool> sent{false};
  handler_.on_end_of_stream = [&](Connection& connection) {
    if (connection.bytes_received() != 0) {
      Send(connection, much);
      sent = true;
    }
    return EndOfStream::kKeepOpen;
  };
  Start(On(2));
  std::vector<Client> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back(server_.address());
    if (i == 3) clients.back().Send("x");
    clients.back().EndStream();
  }
  ASSERT_TRUE(WaitForEnded(4));
  // The end is recorded before the hook sends, and a stop that comes between refuses the send.
  ASSERT_TRUE(Eventually([&] { return sent.load(); }));
  const auto began = std::chrono::steady_clock::now();
  server_.Shutdown(1s);
  EXPECT_LT(std::chrono::steady_clock::now() - began, 3s);
  EXPECT_EQ(handler_.closed, 4U);
  for (const auto& [id, record] : handler_.records) {
    EXPECT_EQ(record.closed, CloseReason::kShutdown);
  }
  for (int i = 0; i < 3; ++i) EXPECT_EQ(clients[static_cast<std::size_t>(i)].WaitForEnd(), 0);
}

TEST_P(HalfCloseTest, TheyCountAsConnections) {
  handler_.on_end_of_stream = KeepOpen;
  Options options = On();
  options.max_connections = 1;
  Start(options);
  const Stopper stopper{server_};
  const Client client(server_.address());
  client.EndStream();
  ASSERT_TRUE(WaitForEnded());
  EXPECT_EQ(server_.connection_count(), 1U);
  EXPECT_TRUE(IsReset(Client(server_.address()).WaitForEnd()));
  EXPECT_EQ(server_.stats().refused, 1U);
  OnlyOpen()->Close();
  ASSERT_TRUE(WaitForClosed());
  const Client next(server_.address());
  EXPECT_TRUE(handler_.WaitFor([&] { return handler_.records.size() == 2; }));
}

// Each client sends its data, ends, and gets the sum of all of it from a thread.
TEST_P(HalfCloseTest, ManyClientsAreAnsweredByAnotherThread) {
  constexpr unsigned kClients = 60;
  std::mutex mutex;
  std::vector<ConnectionPtr> asked;
  handler_.on_end_of_stream = [&](Connection& connection) {
    const std::lock_guard lock(mutex);
    asked.emplace_back(&connection);
    return EndOfStream::kKeepOpen;
  };
  Start(On(4));
  const Stopper stopper{server_};
  std::atomic<bool> stop{false};
  std::thread answering([&] {
    while (!stop) {
      std::vector<ConnectionPtr> now;
      {
        const std::lock_guard lock(mutex);
        now.swap(asked);
      }
      for (const ConnectionPtr& connection : now) {
        Send(*connection, std::to_string(connection->bytes_received()));
        connection->Close();
      }
      std::this_thread::yield();
    }
  });
  std::vector<std::thread> threads;
  std::atomic<unsigned> right{0};
  for (unsigned t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      for (unsigned i = t; i < kClients; i += 6) {
        const Client client(server_.address());
        const std::string data = Pattern(1 + i * 7919 % 150'000, i);
        client.Send(data);
        client.EndStream();
        int error = 0;
        if (client.Receive(100, &error) == std::to_string(data.size()) && error == 0) ++right;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(WaitForClosed(kClients));
  stop = true;
  answering.join();
  EXPECT_EQ(right, kClients);
  for (const auto& [id, record] : handler_.records) {
    EXPECT_EQ(record.closed, CloseReason::kLocalClose);
  }
}

INSTANTIATE_TEST_SUITE_P(Ports, HalfCloseTest, ::testing::ValuesIn(testing::AvailableBackends()),
                         [](const auto& backend) { return backend.param; });

}  // namespace
}  // namespace iocp
