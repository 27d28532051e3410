// The server on the real ports of this system.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <type_traits>

#include "engine/connection.h"
#include "server_harness.h"
#ifndef _WIN32
#include <sys/resource.h>
#endif

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

class ServerTest : public ::testing::TestWithParam<std::string> {
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
  void StartEcho(const Options& options) {
    handler_.on_read = [](Connection& connection, Buffer& buffer) {
      // It may be closing by now; but flow control keeps the backlog below its limit.
      EXPECT_NE(connection.Send(buffer.data(), buffer.size()), SendResult::kBacklogFull);
    };
    Start(options);
  }
  // The record of the one connection there was.
  RecordingHandler::Record& Only() {
    EXPECT_EQ(handler_.records.size(), 1U);
    return handler_.records.begin()->second;
  }
  bool WaitForClosed(std::size_t count) {
    return handler_.WaitFor([&] { return handler_.closed == count; });
  }

  RecordingHandler handler_;
  Server server_{handler_};
};

TEST_P(ServerTest, EchoesManyClientsOnManyWorkers) {
  StartEcho(On(4));
  EXPECT_EQ(server_.backend(), GetParam());
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (unsigned t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (unsigned i = 0; i < 10; ++i) {
        const Client client(server_.address());
        const std::string data = Pattern(1 + (t * 7919 + i * 104729) % 200'000, t * 100 + i);
        std::thread sender([&] { client.Send(data); });
        right += client.Receive(data.size()) == data ? 1 : 0;
        sender.join();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 80);
  EXPECT_TRUE(WaitForClosed(80));
  EXPECT_EQ(server_.connection_count(), 0U);
  const Stats stats = server_.stats();
  EXPECT_EQ(stats.bytes_received, stats.bytes_sent);
  EXPECT_EQ(stats.buffers_in_use, 0U);
}

TEST_P(ServerTest, WhatWasReceivedIsSentOnAndTakenOver) {
  handler_.on_read = [](Connection& connection, Buffer& buffer) {
    // Of a small block's size and of a large one's; an empty buffer is a send like any other.
    const std::string before(buffer.view());
    const SendResult result = connection.Send(buffer);
    EXPECT_NE(result, SendResult::kBacklogFull);
    EXPECT_EQ(std::string(buffer.view()), result == SendResult::kAccepted ? "" : before);
    Buffer empty;
    EXPECT_EQ(connection.Send(empty), result);
  };
  Options options = On(2);
  options.buffer_size = 4096;
  Start(options);
  const Stopper stopper{server_};
  const std::string data = Pattern(4'000'000, 5);
  const Client client(server_.address());
  std::thread sender([&] {
    // Sends of one byte, of less than a quarter of a block, and of more.
    std::string_view rest = data;
    for (std::size_t i = 0; i < 300; ++i) {
      client.Send(rest.substr(0, 1 + i * 7));
      rest.remove_prefix(1 + i * 7);
    }
    client.Send(rest);
    client.EndStream();
  });
  int error = 0;
  EXPECT_TRUE(client.Receive(data.size() + 1, &error) == data);
  EXPECT_EQ(error, 0);
  sender.join();
  ASSERT_TRUE(WaitForClosed(1));
  EXPECT_EQ(server_.stats().buffers_in_use, 0U);
}

TEST_P(ServerTest, WhatCannotBeSentOnStaysTheHooks) {
  std::vector<SendResult> results;
  std::vector<std::string> left;
  handler_.on_read = [&](Connection& connection, Buffer& buffer) {
    connection.Close();
    results.push_back(connection.Send(buffer));
    left.emplace_back(buffer.view());
  };
  Options options = On();
  options.buffer_size = 512;
  Start(options);
  const Stopper stopper{server_};
  const std::vector<std::string> sent{Pattern(1, 6), Pattern(400, 6)};
  for (const std::string& data : sent) {
    const Client client(server_.address());
    client.Send(data);
    EXPECT_EQ(client.WaitForEnd(), 0);
  }
  ASSERT_TRUE(WaitForClosed(sent.size()));
  EXPECT_EQ(results, std::vector(sent.size(), SendResult::kClosed));
  EXPECT_TRUE(left == sent);
}

TEST_P(ServerTest, DataBeforeTheEndOfTheStreamIsDelivered) {
  handler_.on_read = [](Connection& connection, Buffer& buffer) {
    connection.Send(buffer.data(), buffer.size());
  };
  Start(On());
  const Stopper stopper{server_};
  const std::string data = Pattern(3'000'000, 1);
  const Client client(server_.address());
  std::thread sender([&] {
    client.Send(data);
    client.EndStream();
  });
  int error = 0;
  EXPECT_TRUE(client.Receive(data.size() + 1, &error) == data);
  EXPECT_EQ(error, 0);
  sender.join();
  ASSERT_TRUE(WaitForClosed(1));
  EXPECT_TRUE(Only().received == data);
  EXPECT_EQ(Only().reason, CloseReason::kPeerClosed);
}

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

TEST_P(ServerTest, ResetsDuringAcceptDoNotMakeItDeaf) {
  StartEcho(On());
  for (int i = 0; i < 500; ++i) Client(server_.address()).Reset();
  const Client client(server_.address());
  client.Send("heard");
  EXPECT_EQ(client.Receive(5), "heard");
  EXPECT_TRUE(Eventually([&] {
    const Stats stats = server_.stats();
    return stats.established + stats.accept_errors == 501 && stats.connections == 1;
  }));
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

// The system knows a connection by its address, and tells how many bytes it has moved.
TEST_P(ServerTest, APointerComesBackFromTheSystemWhole) {
  std::atomic<std::uintptr_t> address{0};
  handler_.on_established = [&](Connection& connection) {
    address = reinterpret_cast<std::uintptr_t>(&connection);
  };
  StartEcho(On());
  const Stopper stopper{server_};
  const Client client(server_.address());
  client.Send("here I am");
  EXPECT_EQ(client.Receive(9), "here I am");
#ifdef __linux__
  if constexpr (sizeof(void*) == 8) {
    EXPECT_NE(address >> 32U, 0U) << "this process has a heap that shows nothing";
  }
#endif
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

TEST_P(ServerTest, TheDestructorStopsAServerThatRunsAndWaitsForItsHooks) {
  RecordingHandler handler;
  auto server = std::make_unique<Server>(handler);
  std::atomic<bool> in_hook{false};
  std::atomic<bool> destroying{false};
  std::atomic<bool> hook_left{false};
  handler.on_read = [&](Connection&, Buffer&) {
    in_hook = true;
    EXPECT_TRUE(Eventually([&] { return destroying.load(); }));
    hook_left = true;
  };
  ASSERT_TRUE(server->Start(On(2)).ok());
  Client client(server->address());
  client.Send("stay");
  ASSERT_TRUE(Eventually([&] { return in_hook.load(); }));
  std::thread end([&] {
    EXPECT_EQ(client.WaitForEnd(), 0);
    client.Close();
  });
  destroying = true;
  server.reset();
  EXPECT_TRUE(hook_left);
  ASSERT_EQ(handler.closed, 1U);
  EXPECT_EQ(handler.records.begin()->second.reason, CloseReason::kShutdown);
  end.join();
}

TEST_P(ServerTest, AFailedStartLeavesNothingBehind) {
  Start(On());
  Options taken = On();
  taken.port = server_.address().port;
  RecordingHandler second_handler;
  Server second(second_handler);
  ASSERT_FALSE(second.Start(taken).ok());
  const std::size_t before = testing::CountDescriptors();
  for (int i = 0; i < 20; ++i) {
    const Status status = second.Start(taken);
    EXPECT_EQ(status.error.kind, ErrorKind::kAddressInUse);
    EXPECT_NE(status.message.find("bind"), std::string::npos) << status.message;
    EXPECT_NE(status.message.find(std::to_string(taken.port)), std::string::npos);
  }
  EXPECT_EQ(testing::CountDescriptors(), before);
  EXPECT_FALSE(second.running());
  EXPECT_EQ(server_.Start(On()).problem, Status::Problem::kAlreadyRunning);
}

TEST_P(ServerTest, StartsAndStopsAnyNumberOfTimes) {
  for (int i = 0; i < 50; ++i) {
    StartEcho(On(1 + i % 3));
    Client client(server_.address());
    client.Send("again");
    ASSERT_EQ(client.Receive(5), "again");
    std::thread end([&] {
      EXPECT_EQ(client.WaitForEnd(), 0);
      client.Close();
    });
    server_.Shutdown();
    end.join();
    ASSERT_FALSE(server_.running());
    ASSERT_EQ(server_.connection_count(), 0U);
  }
  EXPECT_EQ(handler_.closed, 50U);
}

// Where workers share a port, another one than the first may be told of the end, and first.
TEST_P(ServerTest, MayBeStoppedBeforeItsWorkersHaveTakenATurn) {
  for (int i = 0; i < 200; ++i) {
    StartEcho(On(4));
    server_.Shutdown(0s);
    ASSERT_FALSE(server_.running());
    ASSERT_EQ(server_.stats().pending_accepts, 0U);
  }
}

TEST_P(ServerTest, TheLimitsAreExactAndToldFromAClosedConnection) {
  Options options = On();
  options.max_pending_sends = 3;
  options.send_backlog_limit = 1000;
  std::vector<SendResult> results;
  handler_.on_established = [&](Connection& connection) {
    for (int i = 0; i < 4; ++i) results.push_back(connection.Send("1234567890", 10));
    connection.Close();
    results.push_back(connection.Send("x", 1));
  };
  Start(options);
  const Stopper stopper{server_};
  Client client(server_.address());
  EXPECT_EQ(client.Receive(100).size(), 30U);
  client.Close();
  ASSERT_TRUE(WaitForClosed(1));
  EXPECT_EQ(results,
            (std::vector{SendResult::kAccepted, SendResult::kAccepted, SendResult::kAccepted,
                         SendResult::kBacklogFull, SendResult::kClosed}));
}

TEST_P(ServerTest, OneSendOfAnyLengthArrivesWhole) {
  const std::string data = Pattern(8'000'000, 2);
  handler_.on_established = [&](Connection& connection) {
    EXPECT_EQ(connection.Send(data.data(), data.size()), SendResult::kAccepted);
    EXPECT_EQ(connection.send_backlog(), data.size());
  };
  Start(On());
  const Stopper stopper{server_};
  const Client client(server_.address());
  EXPECT_TRUE(client.Receive(data.size()) == data);
  ASSERT_TRUE(handler_.WaitFor([&] { return Only().written.size() == 1; }));
  EXPECT_EQ(Only().written.front(), data.size());
}

TEST_P(ServerTest, SendsOfManyThreadsAreContiguousAndInOrder) {
  constexpr int kThreads = 8;
  constexpr std::uint32_t kSends = 500;
  std::atomic<Connection*> target{nullptr};
  handler_.on_established = [&](Connection& connection) {
    connection.AddReference();
    target = &connection;
  };
  Options options = On(2);
  options.send_backlog_limit = 1U << 30U;
  Start(options);
  const Stopper stopper{server_};
  const Client client(server_.address());
  ASSERT_TRUE(Eventually([&] { return target.load() != nullptr; }));
  struct Message {
    std::uint32_t thread, number, check[6];
  };
  std::vector<std::thread> threads;
  for (std::uint32_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (std::uint32_t i = 0; i < kSends; ++i) {
        Message message{t, i, {t ^ i, t ^ i, t ^ i, t ^ i, t ^ i, t ^ i}};
        ASSERT_EQ(target.load()->Send(&message, sizeof(message)), SendResult::kAccepted);
      }
    });
  }
  std::vector<std::uint32_t> next(kThreads, 0);
  for (std::uint32_t i = 0; i < kThreads * kSends; ++i) {
    const std::string bytes = client.Receive(sizeof(Message));
    ASSERT_EQ(bytes.size(), sizeof(Message));
    Message message;
    bytes.copy(reinterpret_cast<char*>(&message), sizeof(message));
    ASSERT_LT(message.thread, static_cast<std::uint32_t>(kThreads));
    ASSERT_EQ(message.number, next[message.thread]++);
    for (const std::uint32_t check : message.check) {
      ASSERT_EQ(check, message.thread ^ message.number);
    }
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(handler_.WaitFor([&] { return Only().written.size() == kThreads * kSends; }));
  target.load()->DropReference();
}

TEST_P(ServerTest, TheServerMaySpeakFirst) {
  handler_.on_established = [](Connection& connection) { connection.Send("220 hello", 9); };
  Start(On());
  const Stopper stopper{server_};
  EXPECT_EQ(Client(server_.address()).Receive(9), "220 hello");
}

TEST_P(ServerTest, EstablishedOnFirstDataIsNeverToldOfASilentClient) {
  Options options = On();
  options.established_on = EstablishedOn::kFirstData;
  StartEcho(options);
  {
    const Client silent(server_.address());
  }
  const Client client(server_.address());
  client.Send("first");
  EXPECT_EQ(client.Receive(5), "first");
  ASSERT_TRUE(Eventually([&] { return server_.connection_count() == 1; }));
  EXPECT_EQ(handler_.records.size(), 1U);
  EXPECT_EQ(server_.stats().accepted, 2U);
  EXPECT_EQ(server_.stats().established, 1U);
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
  EXPECT_EQ(Only().reason, CloseReason::kLocalAbort);
}

TEST_P(ServerTest, AResetIsAnErrorAndNotAnEnd) {
  StartEcho(On());
  Client client(server_.address());
  client.Send("x");
  client.Receive(1);
  client.Reset();
  ASSERT_TRUE(WaitForClosed(1));
  EXPECT_EQ(Only().reason, CloseReason::kError);
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

// A plain number could be copied.
static_assert(!std::is_copy_constructible_v<Counter> && !std::is_copy_assignable_v<Counter>);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

TEST_P(ServerTest, CountersMayBeReadWhileTheyAreWritten) {
  constexpr std::size_t kClients = 4;
  constexpr std::uint64_t kRounds = 500;
  StartEcho(On(2));
  const Stopper stopper{server_};
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    Stats before;
    while (!stop) {
      const Stats now = server_.stats();
      EXPECT_GE(now.bytes_received, before.bytes_received);
      EXPECT_GE(now.bytes_sent, before.bytes_sent);
      EXPECT_GE(now.hook_calls, before.hook_calls);
      EXPECT_LE(now.connections, kClients);
      before = now;
      for (const ConnectionPtr& connection : server_.connections()) {
        EXPECT_LE(connection->bytes_sent(), kRounds);
        // One that is out and not told of yet, and the answer to what its receiver sent then.
        EXPECT_LE(connection->send_backlog(), 2U) << "below zero";
      }
    }
  });
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (std::size_t i = 0; i < kClients; ++i) {
    threads.emplace_back([&] {
      const Client client(server_.address());
      std::uint64_t echoes = 0;
      while (echoes < kRounds && client.Send("c") && client.Receive(1) == "c") ++echoes;
      right += echoes == kRounds ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(WaitForClosed(kClients));
  stop = true;
  reader.join();
  EXPECT_EQ(right, static_cast<int>(kClients));
  EXPECT_EQ(server_.stats().bytes_received, kClients * kRounds);
  EXPECT_EQ(server_.stats().bytes_sent, kClients * kRounds);
}

TEST(ServerContextTest, TheBacklogIsWhatItWasAtOneMoment) {
  constexpr int kLooks = 20'000'000;  // a wrong one in some millions
  Context context(nullptr);
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    while (!stop) {
      context.queued_bytes.Add(1);
      context.ended_bytes.Add(1);
    }
  });
  std::size_t most = 0;
  for (int i = 0; i < kLooks; ++i) most = std::max(most, context.send_backlog());
  stop = true;
  writer.join();
  EXPECT_LE(most, 1U);
  EXPECT_EQ(context.send_backlog(), 0U);
}

TEST_P(ServerTest, AsManyWorkersAsAskedForOnLoopbackByDefault) {
  struct CountingHandler : Handler {
    std::atomic<int> begun{0};
    std::atomic<int> ended{0};

    void OnWorkerBegin() override { ++begun; }
    void OnWorkerEnd() override { ++ended; }
  };
  for (const int workers : {1, 3, 5}) {
    CountingHandler handler;
    Server server(handler);
    ASSERT_TRUE(server.Start(On(workers)).ok());
    EXPECT_EQ(server.address().Host(), "127.0.0.1");
    EXPECT_TRUE(Eventually([&] { return handler.begun == workers; }));
    server.Shutdown(0s);
    EXPECT_EQ(handler.begun, workers);
    EXPECT_EQ(handler.ended, workers);
  }
}

TEST_P(ServerTest, AtCapacityRefusesWithAResetAndCounts) {
  Options options = On();
  options.max_connections = 2;
  StartEcho(options);
  std::vector<Client> clients;
  for (int i = 0; i < 2; ++i) clients.emplace_back(server_.address());
  ASSERT_TRUE(handler_.WaitFor([&] { return handler_.records.size() == 2; }));
  EXPECT_TRUE(IsReset(Client(server_.address()).WaitForEnd()));
  EXPECT_EQ(server_.stats().refused, 1U);
  clients.pop_back();
  ASSERT_TRUE(WaitForClosed(1));
  const Client next(server_.address());
  next.Send("room");
  EXPECT_EQ(next.Receive(4), "room");
}

TEST_P(ServerTest, AtCapacityWaitsUntilThereIsRoom) {
  Options options = On();
  options.max_connections = 3;
  options.at_capacity = AtCapacity::kWait;
  StartEcho(options);
  std::vector<Client> clients;
  for (int i = 0; i < 30; ++i) {
    clients.emplace_back(server_.address());
    clients.back().Send("patience");
  }
  std::uint64_t served = 0;
  for (Client& client : clients) {
    EXPECT_EQ(client.Receive(8), "patience");
    EXPECT_LE(server_.connection_count(), 3U);
    // Those that wait do so in the system's backlog: hardly anybody is accepted ahead of room.
    EXPECT_LE(server_.stats().accepted, served + 3 + 2);
    client.Close();
    ++served;
  }
  EXPECT_TRUE(WaitForClosed(30));
  EXPECT_EQ(server_.stats().refused, 0U);
}

TEST_P(ServerTest, PausedReadingDeliversNothingAndLosesNothing) {
  std::atomic<Connection*> target{nullptr};
  handler_.on_read = [&](Connection& connection, Buffer&) {
    if (target.load() != nullptr) return;
    connection.PauseReading();
    connection.AddReference();
    target = &connection;
  };
  Start(On());
  const Stopper stopper{server_};
  const std::string data = Pattern(2'000'000, 4);
  const Client client(server_.address());
  std::thread sender([&] {
    client.Send(data);
    client.EndStream();
  });
  ASSERT_TRUE(Eventually([&] { return target.load() != nullptr; }));
  const std::size_t seen = Only().received.size();
  const std::uint64_t reads = server_.stats().hook_calls;
  // Another client's round trip: time in which a mistake would have shown.
  {
    const Client other(server_.address());
  }
  EXPECT_TRUE(WaitForClosed(1));
  EXPECT_EQ(handler_.records.begin()->second.received.size(), seen);
  EXPECT_EQ(server_.stats().hook_calls, reads + 2);
  target.load()->ResumeReading();
  sender.join();
  ASSERT_TRUE(WaitForClosed(2));
  EXPECT_TRUE(handler_.records.begin()->second.received == data);
  target.load()->DropReference();
}

TEST_P(ServerTest, AClientThatNeverReadsIsNotReadFrom) {
  StartEcho(On());
  const Client greedy(server_.address());
  greedy.SetPatience(200ms);
  EXPECT_FALSE(greedy.Send(std::string(64'000'000, 'g'))) << "somebody buffered all of it";
  const Client other(server_.address());
  other.Send("served");
  EXPECT_EQ(other.Receive(6), "served");
  const auto connections = server_.connections();
  for (const ConnectionPtr& connection : connections) {
    EXPECT_LE(connection->send_backlog(), 64U * 1024 + On().buffer_size);
  }
}

TEST_P(ServerTest, IdleAndWriteTimeouts) {
  Options options = On();
  options.idle_timeout = 200ms;
  StartEcho(options);
  const Client idle(server_.address());
  idle.Send("x");
  EXPECT_EQ(idle.WaitForEnd(), 0);
  ASSERT_TRUE(WaitForClosed(1));
  EXPECT_EQ(Only().reason, CloseReason::kIdleTimeout);
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
  EXPECT_EQ(writer_handler.records.begin()->second.reason, CloseReason::kWriteTimeout);
}

TEST_P(ServerTest, ShutdownUnderLoadIsBoundedAndClosesEachOnce) {
  StartEcho(On(3));
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  std::atomic<int> connected{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      std::vector<Client> clients;
      for (int i = 0; i < 50; ++i) clients.emplace_back(server_.address());
      connected += 50;
      const std::string data(10'000, 'l');
      while (!stop) {
        for (const Client& client : clients) {
          if (client.Send(data)) client.Receive(data.size());
        }
      }
    });
  }
  ASSERT_TRUE(Eventually([&] { return connected == 200; }));
  const auto began = std::chrono::steady_clock::now();
  server_.Shutdown(1s);
  EXPECT_LT(std::chrono::steady_clock::now() - began, 2s);
  const std::size_t established = handler_.records.size();
  EXPECT_EQ(handler_.closed, established);
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(handler_.closed, established) << "a hook after shutdown";
}

TEST_P(ServerTest, ShutdownFromAHookReturnsAtOnceAndGoesOnBehindIt) {
  std::atomic<bool> returned{false};
  handler_.on_read = [&](Connection&, Buffer&) {
    server_.Shutdown(1s);
    returned = true;
  };
  Start(On(2));
  const Stopper stopper{server_};
  Client client(server_.address());
  client.Send("stop");
  EXPECT_EQ(client.WaitForEnd(), 0);
  client.Close();
  EXPECT_TRUE(server_.WaitUntilStopped(testing::kDeadline));
  EXPECT_TRUE(returned);
  EXPECT_EQ(Only().reason, CloseReason::kShutdown);
  handler_.on_read = nullptr;
  Start(On());
}

TEST_P(ServerTest, ShutdownFromManyThreadsAtOnce) {
  StartEcho(On(2));
  const Client client(server_.address());
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) threads.emplace_back([&] { server_.Shutdown(500ms); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(server_.running());
  server_.Shutdown();
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

TEST_P(ServerTest, ABufferMovedOutKeepsItsBytes) {
  std::vector<Buffer> kept;
  handler_.on_read = [&](Connection& connection, Buffer& buffer) {
    if (kept.empty()) kept.push_back(std::move(buffer));
    connection.Send("k", 1);
  };
  Start(On());
  const Stopper stopper{server_};
  const Client client(server_.address());
  client.Send("precious");
  client.Receive(1);
  for (int i = 0; i < 100; ++i) {
    client.Send(std::string(1000, 'x'));
    client.Receive(1);
  }
  EXPECT_TRUE(handler_.WaitFor([&] { return kept.front().view() == "precious"; }));
  EXPECT_GE(server_.stats().buffers_in_use, 1U);
  server_.Shutdown(0s);
  EXPECT_EQ(kept.front().view(), "precious") << "bytes outlive the run";
}

TEST_P(ServerTest, BroadcastReachesAllButOne) {
  Start(On(2));
  std::vector<Client> clients;
  for (int i = 0; i < 20; ++i) clients.emplace_back(server_.address());
  ASSERT_TRUE(handler_.WaitFor([&] { return handler_.records.size() == 20; }));
  const auto connections = server_.connections();
  ASSERT_EQ(connections.size(), 20U);
  EXPECT_EQ(server_.Broadcast("all", 3, connections.front().get()), 19U);
  server_.CloseAllConnections();
  int heard = 0;
  for (const Client& client : clients) heard += client.Receive(4) == "all" ? 1 : 0;
  EXPECT_EQ(heard, 19);
}

#ifndef _WIN32  // has no limit of descriptors that a test could reach

TEST_P(ServerTest, AHostThatCannotBeResolvedIsTheResolversFailure) {
  Options options = On();
  options.host = "no.such.host.invalid";
  const Status status = server_.Start(options);
  EXPECT_EQ(status.problem, Status::Problem::kUnresolved);
  EXPECT_NE(status.error.code, 0);
}

// However few descriptors there are for it: the next one more gets it a step further.
TEST_P(ServerTest, EveryStepOfAStartThatFailsIsReportedAndUndone) {
  Start(On(2));  // what is made once in a process is there
  server_.Shutdown();
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  const std::size_t descriptors = testing::CountDescriptors();
  std::set<std::string> messages;
  bool started = false;
  for (rlim_t spare = 0; !started && spare < 40; ++spare) {
    const int next = ::dup(0);
    ::close(next);
    rlimit tight = before;
    tight.rlim_cur = static_cast<rlim_t>(next) + spare;
    ::setrlimit(RLIMIT_NOFILE, &tight);
    const Status status = server_.Start(On(2));
    ::setrlimit(RLIMIT_NOFILE, &before);
    started = status.ok();
    if (started) break;
    EXPECT_EQ(status.problem, Status::Problem::kSystem) << status.message;
    EXPECT_EQ(status.error.kind, ErrorKind::kOutOfResources) << status.message;
    EXPECT_EQ(status.error.code, EMFILE) << status.message;
    EXPECT_FALSE(server_.running());
    EXPECT_EQ(testing::CountDescriptors(), descriptors) << status.message;
    messages.insert(status.message);
  }
  EXPECT_TRUE(started);
  EXPECT_GE(messages.size(), 2U) << "the socket and the ports are steps of their own";
  server_.Shutdown();
  EXPECT_EQ(testing::CountDescriptors(), descriptors);
}

// Descriptors run out because of clients, again and again: each time the server waits without
// burning the processor, and serves again. It says so once, not once for each client that goes.
TEST_P(ServerTest, OutOfDescriptorsWaitsAndRecovers) {
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  const int probe = ::dup(0);
  ::close(probe);
  rlimit tight = before;
  tight.rlim_cur = static_cast<rlim_t>(probe) + 40;
  // Before the start: io_uring takes the limit as it was when the accept was posted.
  ::setrlimit(RLIMIT_NOFILE, &tight);
  StartEcho(On());
  {
    const Client warm_up(server_.address());
  }
  for (std::size_t shortage = 1; shortage <= 3; ++shortage) {
    ASSERT_TRUE(WaitForClosed(shortage));
    const std::uint64_t errors = server_.stats().accept_errors;
    std::vector<int> hoard;
    for (int fd = ::dup(0); fd >= 0; fd = ::dup(0)) hoard.push_back(fd);
    ASSERT_GE(hoard.size(), 2U);
    // One for the client's end; none is left for the server's.
    ::close(hoard.back());
    hoard.pop_back();
    const Client late(server_.address());
    EXPECT_TRUE(Eventually([&] { return server_.stats().accept_errors >= errors + 2; }));
    EXPECT_TRUE(handler_.WaitFor([&] { return !handler_.warnings.empty(); }));
    EXPECT_LT(server_.stats().accept_errors, errors + 10) << "a busy loop";
    for (const int fd : hoard) ::close(fd);
    late.Send("at last");
    EXPECT_EQ(late.Receive(7), "at last");
  }
  ASSERT_TRUE(WaitForClosed(4));
  EXPECT_EQ(handler_.warnings.size(), 1U);
  ::setrlimit(RLIMIT_NOFILE, &before);
}

#endif  // _WIN32

INSTANTIATE_TEST_SUITE_P(Ports, ServerTest, ::testing::ValuesIn(testing::AvailableBackends()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace iocp
