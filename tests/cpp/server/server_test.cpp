// The server on the real ports: what is sent and received, and the figures about it.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "server_fixture.h"
#include "session/outbound.h"

namespace iocp::testing {
namespace {

using namespace std::chrono_literals;

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
    // Bytes that fill a small block, and a large one; an empty buffer is a send like any other.
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
  EXPECT_EQ(Only().closed, CloseReason::kPeerClosed);
}

// The system knows a connection by its address, and reports how many bytes it has moved.
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

TEST_P(ServerTest, TheLimitsAreExactAndAFullBacklogIsNotAClose) {
  Options options = On();
  options.max_pending_sends = 3;
  options.send_backlog_limit = 1000;
  std::vector<SendResult> results;
  // Another thread sends while the worker is in a hook, so nothing is offered to the system.
  handler_.on_established = [&](Connection& connection) {
    std::thread sender([&] {
      for (int i = 0; i < 4; ++i) results.push_back(connection.Send("1234567890", 10));
      connection.Close();
      results.push_back(connection.Send("x", 1));
    });
    sender.join();
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
        // One that is out and not reported yet, and the answer to what its receiver sent then.
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

TEST(OutboundTest, TheBacklogIsWhatItWasAtOneMoment) {
  constexpr int kLooks = 20'000'000;  // a wrong one in some millions
  Outbound outbound;
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    const std::string_view byte = "x";
    SendMemory memory;
    while (!stop) {
      outbound.Accept(outbound.queue(), SendItem::Copy(&byte, 1, &memory));
      outbound.CountSent(1, &memory);
    }
  });
  std::size_t most = 0;
  for (int i = 0; i < kLooks; ++i) most = std::max(most, outbound.BacklogAtOneMoment());
  stop = true;
  writer.join();
  EXPECT_LE(most, 1U);
  EXPECT_EQ(outbound.backlog(), 0U);
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
  std::size_t seen = 0;
  ASSERT_TRUE(handler_.WaitFor([&] {
    seen = Only().received.size();
    return true;
  }));
  const std::uint64_t reads = server_.stats().hook_calls;
  // Another client's round trip: time in which a mistake would have shown.
  {
    const Client other(server_.address());
  }
  EXPECT_TRUE(WaitForClosed(1));
  EXPECT_EQ(handler_.records.begin()->second.received.size(), seen);
  EXPECT_EQ(server_.stats().hook_calls, reads + 3) << "established, end of stream, closing";
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

INSTANTIATE_TEST_SUITE_P(Ports, ServerTest, ::testing::ValuesIn(AvailableBackends()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace iocp::testing
