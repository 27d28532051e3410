// Messages on the real ports: how they are sent, to one and to many, and whose their bytes are.
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "message_fixture.h"

namespace iocp::testing {
namespace {

using namespace std::string_literals;
using Messages = std::vector<std::string>;

// Bytes that count how often they were given back.
struct Owned {
  explicit Owned(std::string what) : bytes(std::move(what)) {}
  std::string bytes;
  std::atomic<int> released{0};

  SharedBytes Shared() {
    return {bytes.data(), bytes.size(), [](void* owner) { ++static_cast<Owned*>(owner)->released; },
            this};
  }
};
using OwnedPtr = std::unique_ptr<Owned>;

std::vector<OwnedPtr> Some() {
  std::vector<OwnedPtr> all;
  for (const std::size_t size : {1U, 10U, 3000U, 100'000U, 1U}) {
    all.push_back(std::make_unique<Owned>(std::string(size, 'm')));
  }
  return all;
}
std::vector<SharedBytes> SharedOf(const std::vector<OwnedPtr>& all) {
  std::vector<SharedBytes> shared;
  for (const OwnedPtr& one : all) shared.push_back(one->Shared());
  return shared;
}
std::string WireOf(const Framing& framing, const std::vector<OwnedPtr>& all) {
  std::string wire;
  for (const OwnedPtr& one : all) wire += Encoded(framing, one->bytes);
  return wire;
}

// Shared where the framing allows it, copied where it encodes, or where writes are reported.
TEST_P(MessageTest, SharedMessagesAreGivenBackOnce) {
  for (const bool reports_writes : {true, false}) {
    for (const bool in_hook : {true, false}) {
      for (const FramingPtr& framing :
           {LengthPrefix(), Delimiter({"\n"}, false, 1 << 20U), Cobs(1 << 20U)}) {
        const std::vector<OwnedPtr> all = Some();
        RecordingHandler handler;
        handler.hooks = handler_.hooks;
        if (!reports_writes) handler.hooks &= ~static_cast<unsigned>(kHookWrite);
        const auto send = [&](Connection& connection) {
          EXPECT_EQ(connection.SendMessages(SharedOf(all)), SendResult::kAccepted);
        };
        if (in_hook) handler.on_established = send;
        Server server(handler);
        ASSERT_TRUE(server.Start(With(framing)).ok());
        const Stopper stopper{server};
        const Client client(server.address());
        ASSERT_TRUE(handler.WaitFor([&] { return handler.records.size() == 1; }));
        if (!in_hook) send(*server.connections().front());
        const std::string wire = WireOf(*framing, all);
        EXPECT_EQ(client.Receive(wire.size()), wire);
        for (const OwnedPtr& one : all) {
          EXPECT_TRUE(Eventually([&] { return one->released >= 1; }));
        }
        server.CloseAllConnections();
        server.Shutdown(Duration::zero());
        for (const OwnedPtr& one : all) EXPECT_EQ(one->released, 1);
        const RecordingHandler::Record& record = handler.records.begin()->second;
        EXPECT_EQ(record.written.size(), reports_writes ? 1U : 0U) << "it is one send";
      }
    }
  }
}

TEST_P(MessageTest, MessagesThatAreNotAcceptedStayTheCallers) {
  Options options = With(LengthPrefix());
  options.send_backlog_limit = 1U << 20U;
  options.write_high_water = 1U << 19U;
  options.write_low_water = 1U << 18U;
  Start(options);
  const Client client(server_.address());
  const ConnectionPtr connection = OnlyOpen();
  std::vector<OwnedPtr> all = Some();
  const auto nothing_is_released = [&] {
    for (const OwnedPtr& one : all) EXPECT_EQ(one->released, 0);
  };
  for (const bool without : {true, false}) {
    connection->SetFraming(without ? nullptr : FixedSize(1000));  // which cannot carry them
    if (without) {
      EXPECT_THROW(connection->SendMessages(SharedOf(all)), std::logic_error);
    } else {
      EXPECT_THROW(connection->SendMessages(SharedOf(all)), std::invalid_argument);
    }
    nothing_is_released();
  }
  EXPECT_EQ(connection->send_backlog(), 0U);
  const std::string much(64 << 20, 'x');
  ASSERT_EQ(connection->Send(much.data(), much.size()), SendResult::kAccepted);
  for (const FramingPtr& framing : {LengthPrefix(), Cobs(1 << 20U)}) {
    connection->SetFraming(framing);
    EXPECT_EQ(connection->SendMessages(SharedOf(all)), SendResult::kBacklogFull);
    EXPECT_EQ(connection->SendAsMessage("x"), SendResult::kBacklogFull);
    nothing_is_released();
  }
  EXPECT_EQ(server_.stats().sends_refused, 4U);
  connection->Abort();
  ASSERT_TRUE(WaitForClosed());
  EXPECT_EQ(connection->SendMessages(SharedOf(all)), SendResult::kClosed);
  EXPECT_EQ(connection->SendAsMessage("x"), SendResult::kClosed);
  server_.Shutdown(Duration::zero());
  nothing_is_released();
}

TEST_P(MessageTest, MessagesThatAreDroppedAreGivenBackOnce) {
  for (const FramingPtr& framing : {LengthPrefix(), Cobs(1 << 20U)}) {
    std::vector<OwnedPtr> all = Some();
    for (int i = 0; i < 24; ++i) all.push_back(std::make_unique<Owned>(std::string(1 << 20, 'x')));
    RecordingHandler handler;
    Server server(handler);
    ASSERT_TRUE(server.Start(With(framing)).ok());
    const Client stuck(server.address());
    ASSERT_TRUE(handler.WaitFor([&] { return handler.records.size() == 1; }));
    const ConnectionPtr connection = server.connections().front();
    EXPECT_EQ(connection->SendMessages(SharedOf(all)), SendResult::kAccepted);
    connection->Abort();
    server.Shutdown(Duration::zero());
    for (const OwnedPtr& one : all) EXPECT_EQ(one->released, 1);
  }
}

TEST_P(MessageTest, ManyMessagesAreOneSend) {
  Start(With(Netstring()));
  const Stopper stopper{server_};
  const Client client(server_.address());
  const ConnectionPtr connection = OnlyOpen();
  const Messages messages{"a", "", "hello", std::string(5000, 'x')};
  std::vector<SharedBytes> all;
  for (const std::string& message : messages) all.push_back({message.data(), message.size()});
  EXPECT_EQ(connection->SendMessages(all), SendResult::kAccepted);
  EXPECT_EQ(connection->SendMessages({}), SendResult::kAccepted);
  EXPECT_EQ(connection->SendAsMessage("one"), SendResult::kAccepted);
  const std::string wire = AllEncoded(*Netstring(), messages) + "3:one,";
  EXPECT_EQ(client.Receive(wire.size()), wire);
  ASSERT_TRUE(
      handler_.WaitFor([&] { return handler_.records.begin()->second.written.size() == 3; }));
  EXPECT_EQ(Only().written, (std::vector<std::size_t>{wire.size() - 6, 0, 6}));
}

TEST_P(MessageTest, MessagesOfSeveralThreadsAreWholeAndInTheOrderOfEach) {
  Start(With(LengthPrefix()));
  const Stopper stopper{server_};
  const Client client(server_.address());
  const ConnectionPtr connection = OnlyOpen();
  constexpr std::size_t kThreads = 4;
  constexpr std::size_t kMessages = 300;
  std::vector<std::thread> threads;
  std::size_t bytes = 0;
  const auto message = [](std::size_t thread, std::size_t i) {
    return std::string(1 + i * 31 % 2000, static_cast<char>('a' + thread)) + std::to_string(i);
  };
  for (std::size_t t = 0; t < kThreads; ++t) {
    for (std::size_t i = 0; i < kMessages; ++i) bytes += message(t, i).size() + 4;
    threads.emplace_back([&, t] {
      for (std::size_t i = 0; i < kMessages; ++i) {
        EXPECT_EQ(connection->SendAsMessage(message(t, i)), SendResult::kAccepted);
      }
    });
  }
  FramedReader reader(LengthPrefix());
  reader.Receive(client.Receive(bytes));
  for (std::thread& thread : threads) thread.join();
  std::vector<std::size_t> next(kThreads, 0);
  for (const std::string& got : reader.messages()) {
    const auto t = static_cast<std::size_t>(got.front() - 'a');
    ASSERT_LT(t, kThreads);
    EXPECT_EQ(got, message(t, next[t]++));
  }
  EXPECT_EQ(reader.messages().size(), kThreads * kMessages);
}

// ---- To many.

TEST_P(MessageTest, ABroadcastMessageIsFramedForEachConnection) {
  const std::vector<FramingPtr> framings{LengthPrefix(), Delimiter({"\n"}), nullptr,
                                         Delimiter({"\n"}), Cobs()};
  Start(With(nullptr));
  const Stopper stopper{server_};
  std::vector<Client> clients;
  std::vector<ConnectionPtr> connections;
  for (const FramingPtr& framing : framings) {
    clients.emplace_back(server_.address());
    ASSERT_TRUE(handler_.WaitFor([&] { return handler_.records.size() == clients.size(); }));
    for (const ConnectionPtr& one : server_.connections()) {
      bool known = false;
      for (const ConnectionPtr& other : connections) known = known || one.get() == other.get();
      if (!known) connections.push_back(one);
    }
    connections.back()->SetFraming(framing);
  }
  const std::string message(2000, 'x');
  std::vector<ConnectionPtr> full;
  EXPECT_EQ(server_.BroadcastMessage(message, nullptr, &full), 4U);
  EXPECT_TRUE(full.empty());
  EXPECT_EQ(server_.BroadcastMessage("hi", connections[0].get()), 3U);
  EXPECT_EQ(server_.BroadcastMessage("some", {connections[0], connections[2], connections[0]}), 1U);
  EXPECT_THROW(server_.BroadcastMessage("a\nb", {connections[1]}), std::invalid_argument);
  EXPECT_EQ(server_.BroadcastMessage("a\nb", {connections[4]}), 1U);
  const std::vector<Messages> expected{
      {message, "some"}, {message, "hi"}, {}, {message, "hi"}, {message, "hi", "a\nb"}};
  for (std::size_t i = 0; i < framings.size(); ++i) {
    connections[i]->Close();
    const std::string received = clients[i].Receive(1'000'000);
    if (framings[i] == nullptr) {
      EXPECT_EQ(received, "");
      continue;
    }
    FramedReader reader(framings[i]);
    reader.Receive(received);
    reader.End();
    EXPECT_EQ(reader.messages(), expected[i]) << i;
    EXPECT_FALSE(reader.failed());
  }
}

}  // namespace
}  // namespace iocp::testing
