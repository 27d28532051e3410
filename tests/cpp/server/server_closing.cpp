// The server on the real ports: how connections end, and what their hooks may do then.
#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "server_fixture.h"

namespace iocp::testing {
namespace {

using namespace std::chrono_literals;

TEST_P(ServerTest, CloseAllClosesEachOnceAndTheCountIsTrue) {
  Start(On(3));
  std::vector<Client> clients;
  for (int i = 0; i < 50; ++i) clients.emplace_back(server_.address());
  ASSERT_TRUE(handler_.WaitFor([&] { return handler_.records.size() == 50; }));
  EXPECT_EQ(server_.connection_count(), 50U);
  std::thread twice([&] { server_.CloseAllConnections(); });
  server_.CloseAllConnections();
  twice.join();
  for (Client& client : clients) {
    EXPECT_EQ(client.WaitForEnd(), 0);
    client.Close();
  }
  ASSERT_TRUE(WaitForClosed(50));
  EXPECT_EQ(server_.connection_count(), 0U);
  EXPECT_EQ(server_.stats().closed[static_cast<std::size_t>(CloseReason::kLocalClose)], 50U);
  EXPECT_TRUE(server_.running());
  const Client next(server_.address());
  EXPECT_TRUE(handler_.WaitFor([&] { return handler_.records.size() == 51; }));
}

TEST_P(ServerTest, CloseFlushesEverythingAndNeverResets) {
  const std::string data = Pattern(4'000'000, 3);
  handler_.on_read = [&](Connection& connection, Buffer&) {
    connection.Send(data.data(), data.size());
    connection.Close();
  };
  Start(On());
  const Stopper stopper{server_};
  for (int i = 0; i < 20; ++i) {
    const Client client(server_.address());
    // More than the server reads before it closes: unread data must not turn the end into a reset.
    client.Send(std::string(100'000, 'q'));
    int error = 0;
    EXPECT_TRUE(client.Receive(data.size() + 1, &error) == data);
    EXPECT_EQ(error, 0);
  }
}

TEST_P(ServerTest, AbortResets) {
  handler_.on_read = [](Connection& connection, Buffer&) { connection.Abort(); };
  Start(On());
  const Stopper stopper{server_};
  const Client client(server_.address());
  client.Send("x");
  EXPECT_TRUE(IsReset(client.WaitForEnd()));
  ASSERT_TRUE(WaitForClosed(1));
  EXPECT_EQ(Only().closed, CloseReason::kLocalAbort);
}

TEST_P(ServerTest, AResetIsAnErrorAndNotAnEnd) {
  StartEcho(On());
  Client client(server_.address());
  client.Send("x");
  client.Receive(1);
  client.Reset();
  ASSERT_TRUE(WaitForClosed(1));
  EXPECT_EQ(Only().closed, CloseReason::kError);
  EXPECT_EQ(Only().error.kind, ErrorKind::kReset);
}

// R7, where it is hardest: the reset came before the last of much data was read.
TEST_P(ServerTest, AResetBehindMuchDataIsSeen) {
  Options options = On();
  options.buffer_size = 512;
  Start(options);
  constexpr std::size_t kClients = 300;
  for (std::size_t i = 0; i < kClients; ++i) {
    Client client(server_.address());
    client.Send(std::string(20'000, 'x'));
    client.Reset();
  }
  EXPECT_TRUE(Eventually([&] {
    // Windows may learn of a reset while it accepts.
    const Stats stats = server_.stats();
    return stats.accepted + stats.accept_errors >= kClients && stats.connections == 0;
  })) << server_.stats().accepted
      << " accepted, " << server_.stats().connections << " connections";
}

TEST_P(ServerTest, AHookMayWaitForAnotherConnectionsClose) {
  std::atomic<Connection*> first_connection{nullptr};
  std::atomic<int> closings{0};
  std::atomic<bool> seen{false};
  handler_.on_established = [&](Connection& connection) {
    Connection* expected = nullptr;
    if (first_connection.compare_exchange_strong(expected, &connection)) connection.AddReference();
  };
  handler_.on_read = [&](Connection&, Buffer&) {
    first_connection.load()->Close();
    seen = Eventually([&] { return closings == 1; });
  };
  handler_.on_closing = [&](Connection&, CloseReason) { ++closings; };
  Start(On(2));
  const Stopper stopper{server_};
  Client first(server_.address());
  ASSERT_TRUE(Eventually([&] { return first_connection.load() != nullptr; }));
  const Client second(server_.address());
  second.Send("close the first");
  EXPECT_EQ(first.WaitForEnd(), 0);
  first.Close();
  EXPECT_TRUE(Eventually([&] { return seen.load(); }));
  first_connection.load()->DropReference();
}

TEST_P(ServerTest, AClosingHookMayWaitForAnotherClosingHook) {
  std::atomic<int> closings{0};
  std::atomic<int> met{0};
  handler_.on_closing = [&](Connection&, CloseReason) {
    ++closings;
    met += Eventually([&] { return closings == 2; }) ? 1 : 0;
  };
  Start(On(2));
  const Stopper stopper{server_};
  Client first(server_.address());
  ASSERT_TRUE(handler_.WaitFor([&] { return handler_.records.size() == 1; }));
  Client second(server_.address());
  ASSERT_TRUE(handler_.WaitFor([&] { return handler_.records.size() == 2; }));
  first.Close();
  ASSERT_TRUE(Eventually([&] { return closings == 1; }));
  second.Close();
  ASSERT_TRUE(WaitForClosed(2));
  EXPECT_EQ(met, 2);
}

TEST_P(ServerTest, AnExceptionInAHookEndsThatConnectionOnly) {
  handler_.on_read = [](Connection& connection, Buffer& buffer) {
    if (buffer.view() == "bad") throw std::runtime_error("a user's mistake");
    connection.Send(buffer.data(), buffer.size());
  };
  Start(On());
  const Stopper stopper{server_};
  const Client good(server_.address());
  const Client bad(server_.address());
  bad.Send("bad");
  EXPECT_TRUE(IsReset(bad.WaitForEnd()));
  good.Send("good");
  EXPECT_EQ(good.Receive(4), "good");
  ASSERT_TRUE(WaitForClosed(1));
  EXPECT_EQ(server_.stats().hook_errors, 1U);
  EXPECT_EQ(server_.stats().closed[static_cast<std::size_t>(CloseReason::kHookError)], 1U);
}

TEST_P(ServerTest, SilentClientsGoOnTimeUnderTraffic) {
  Options options = On();
  options.first_data_timeout = 300ms;
  StartEcho(options);
  std::atomic<bool> stop{false};
  std::atomic<long> echoes{0};
  std::thread traffic([&] {
    const Client busy(server_.address());
    while (!stop) {
      busy.Send("x");
      if (busy.Receive(1) != "x") break;
      ++echoes;
    }
  });
  const auto began = std::chrono::steady_clock::now();
  std::vector<Client> silent;
  for (int i = 0; i < 100; ++i) silent.emplace_back(server_.address());
  for (const Client& client : silent) EXPECT_EQ(client.WaitForEnd(), 0);
  EXPECT_LT(std::chrono::steady_clock::now() - began, 2s);
  stop = true;
  traffic.join();
  EXPECT_GT(echoes, 10);
  ASSERT_TRUE(WaitForClosed(101));
  EXPECT_EQ(server_.stats().closed[static_cast<std::size_t>(CloseReason::kFirstDataTimeout)], 100U);
}

TEST_P(ServerTest, IdleAndWriteTimeouts) {
  Options options = On();
  options.idle_timeout = 200ms;
  StartEcho(options);
  const Client idle(server_.address());
  idle.Send("x");
  EXPECT_EQ(idle.WaitForEnd(), 0);
  ASSERT_TRUE(WaitForClosed(1));
  EXPECT_EQ(Only().closed, CloseReason::kIdleTimeout);
  server_.Shutdown(1s);

  const std::string data(50'000'000, 'w');
  RecordingHandler writer_handler;
  Server writer(writer_handler);
  options.idle_timeout.reset();
  options.write_timeout = 200ms;
  options.send_backlog_limit = 1U << 30U;
  writer_handler.on_established = [&](Connection& connection) {
    connection.Send(data.data(), data.size());
  };
  ASSERT_TRUE(writer.Start(options).ok());
  const Client stuck(writer.address());
  ASSERT_TRUE(writer_handler.WaitFor([&] { return writer_handler.closed == 1; }));
  EXPECT_EQ(writer_handler.records.begin()->second.closed, CloseReason::kWriteTimeout);
}

}  // namespace
}  // namespace iocp::testing
