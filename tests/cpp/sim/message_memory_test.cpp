// The bounds and the memory of messages, in one order of events each: lists, slow peers, shared
// bytes, and memory that runs out.
#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "memory.h"
#include "message_scenarios.h"

namespace iocp::sim {
namespace {

using namespace std::string_literals;
using std::chrono::milliseconds;

// The memory that a connection may take beside the bytes of a message.
constexpr std::size_t kMostBeside = 64 * 1024;
// The memory that it may keep between two messages.
constexpr std::size_t kMostIdle = 1024;

class MessageMemoryTest : public MessageHooksTest {};
INSTANTIATE_TEST_SUITE_P(Hooks, MessageMemoryTest, ::testing::Bool(),
                         [](const auto& lists) { return lists.param ? "Lists" : "One"; });

TEST_F(ScenarioTest, AListHas4096MessagesAtMost) {
  Scenario::Setup setup = With(FixedSize(1), true);
  setup.options.buffer_size = std::size_t{64} * 1024;
  Scenario scenario(setup);
  const auto client = scenario.Connect();
  EXPECT_EQ(client->Send(std::string(5000, 'x')), 5000U);
  scenario.StepAll();
  EXPECT_EQ(scenario.Of(client).lists, (std::vector<std::size_t>{4096, 904}));
}

TEST_P(MessageMemoryTest, OneByteATickGrowsTheMemoryByThatByte) {
  struct Kind {
    FramingPtr framing;
    std::string frame;
    std::string message;
  };
  const std::string some(3000, 'x');
  const std::string much(30'000, 'x');
  const std::vector<Kind> kinds = {
      {LengthPrefix(), "\0\0\x75\x30"s + much, much}, {Lines(), much + "\n", much},
      {FixedSize(much.size()), much, much},           {Netstring(), "30000:" + much + ",", much},
      {VarintPrefix(), "\xB8\x17" + some, some},      {Slip(), "\xC0" + some + "\xC0", some},
  };
  for (const Kind& kind : kinds) {
    Scenario scenario(Setup(kind.framing));
    std::vector<Scenario::Client> clients;
    for (int i = 0; i < 3; ++i) clients.push_back(scenario.Connect());
    for (std::size_t i = 0; i < kind.frame.size(); ++i) {
      for (const auto& client : clients) {
        EXPECT_TRUE(scenario.Of(client).messages.empty());
        client->Send(kind.frame.substr(i, 1));
      }
      scenario.StepAll();
      const MessageCutter& cutter = CutterOf(scenario.ConnectionOf(clients[0]));
      ASSERT_LE(cutter.memory(), i + 1 + kMostBeside);
    }
    for (const auto& client : clients) {
      EXPECT_TRUE(scenario.Of(client).messages == Messages{kind.message});
      const MessageCutter& cutter = CutterOf(scenario.ConnectionOf(client));
      EXPECT_EQ(cutter.kept(), 0U);
      EXPECT_LE(cutter.memory(), kMostIdle) << "it waits for its next message";
    }
  }
}

// Shared messages between those that are copied: the memory is about that of the bytes.
TEST_F(ScenarioTest, ManySharedMessagesTakeNoRoomForOneAnother) {
  Scenario::Setup setup = With(LengthPrefix(), true);
  setup.hooks &= ~static_cast<unsigned>(kHookWrite);
  Scenario scenario(setup);
  const auto client = scenario.Connect();
  const std::string bytes(1000, 'x');
  int released = 0;
  std::vector<SharedBytes> messages;
  for (int i = 0; i < 100; ++i) {
    messages.push_back({bytes.data(), bytes.size()});
    messages.push_back(
        {bytes.data(), bytes.size(), [](void* count) { ++*static_cast<int*>(count); }, &released});
  }
  Connection& connection = scenario.ConnectionOf(client);
  EXPECT_EQ(connection.SendMessages(messages), SendResult::kAccepted);
  EXPECT_LE(Session::Of(connection).outbound().charge(), 2 * 200 * (bytes.size() + 256));
  while (released < 100) {
    scenario.PassTime(milliseconds(1));
    client->Receive(1'000'000);
  }
  EXPECT_EQ(released, 100);
}

// A frame that is larger than its message does not fit into the room that was made for both.
TEST_F(ScenarioTest, ALongMessageTakesItsRoomOnce) {
  Scenario::Setup setup = With(Slip(), true);
  setup.hooks &= ~static_cast<unsigned>(kHookWrite);
  Scenario scenario(setup);
  const auto client = scenario.Connect();
  const std::string bytes(50'000, '\xC0');
  const std::vector<SharedBytes> messages = {{"x", 1}, {bytes.data(), bytes.size()}};
  Connection& connection = scenario.ConnectionOf(client);
  EXPECT_EQ(connection.SendMessages(messages), SendResult::kAccepted);
  EXPECT_LE(Session::Of(connection).outbound().charge(), 2 * bytes.size() + 4096);
}

class NthAllocation final : public FailingMemory::Source {
 public:
  explicit NthAllocation(std::uint64_t nth) : nth_(nth) {}
  bool Fails(bool) override { return ++count_ == nth_; }
  [[nodiscard]] bool happened() const { return count_ >= nth_; }

 private:
  const std::uint64_t nth_;
  std::uint64_t count_ = 0;
};

// Small and large messages, lists of them, their bytes, a switch while the beginning of one is
// kept, answers and broadcasts: each allocation fails in turn. The connection ends, with a reason,
// or nobody sees it; and the other client is served.
TEST_P(MessageMemoryTest, WithoutMemoryAConnectionEndsAndNothingIsLost) {
  const std::string large(40'000, 'x');
  const Messages expected{"a", large, "b", "line", "c"};
  std::uint64_t ended = 0;
  std::uint64_t nth = 0;
  for (bool more = true; more;) {
    Scenario scenario(Setup(LengthPrefix()));
    std::vector<Buffer> kept;
    const auto each = [&](Connection& connection, Message& message) {
      kept.push_back(message.Share());
      std::string copy(message.size(), '\0');
      message.CopyTo(copy.data());
      connection.SendAsMessage(copy);
      connection.SendMessages(std::vector<SharedBytes>{{"x", 1}, {copy.data(), copy.size()}});
      if (copy == "b") connection.SetFraming(Lines());
    };
    scenario.handler().on_message = each;
    scenario.handler().on_messages = [&](Connection& connection, std::span<Message> messages) {
      for (Message& message : messages) each(connection, message);
    };
    const auto client = scenario.Connect();
    const auto other = scenario.Connect();
    NthAllocation source(++nth);
    {
      const FailingMemory failing(&source);
      const auto send = [&](const std::string& bytes) {
        client->Send(bytes);
        for (int turns = 0; turns < 5; ++turns) {
          const FailingMemory::Scope armed(true);
          scenario.Step(0);
        }
        scenario.PassTime(milliseconds(100));  // a port without a buffer tries again
        client->Receive(1'000'000);
      };
      send("\0\0\0\1a\0\0\x9c\x40"s + large.substr(0, 20'000));
      send(large.substr(20'000) + "\0\0\0\1b"s);
      send("lin");
      send("e\nc");
      send("\n");
    }
    more = source.happened();
    const RecordingHandler::Record& record = scenario.Of(client);
    if (record.closed) {
      ++ended;
      EXPECT_TRUE(record.error.kind == ErrorKind::kOutOfResources ||
                  record.closed == CloseReason::kHookError)
          << nth;
    } else {
      EXPECT_TRUE(record.messages == expected) << nth;
    }
    other->Send("\0\0\0\1z"s);
    scenario.StepAll();
    EXPECT_EQ(scenario.Of(other).messages, Messages{"z"}) << nth;
  }
  EXPECT_GE(ended, 20U);
}

}  // namespace
}  // namespace iocp::sim
