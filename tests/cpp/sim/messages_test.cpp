// Messages on the simulated port, in one order of events each: framings that the last hooks of a
// turn set, pauses between a cut and its hook, peers that are slow, and memory that runs out.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "memory.h"
#include "scenario.h"
#include "session/session.h"

namespace iocp::sim {
namespace {

using namespace std::string_literals;
using std::chrono::milliseconds;
using std::chrono::seconds;
using Messages = std::vector<std::string>;

// The memory that a connection may take beside the bytes of a message.
constexpr std::size_t kMostBeside = 64 * 1024;
// The memory that it may keep between two messages.
constexpr std::size_t kMostIdle = 1024;

FramingPtr Lines() { return Delimiter({"\n"}); }

Scenario::Setup With(const FramingPtr& framing, bool lists) {
  Scenario::Setup setup;
  setup.hooks = kHookAll | (lists ? kHookMessages : 0U);
  setup.options.framing = framing;
  return setup;
}

const MessageCutter& CutterOf(Connection& connection) { return *Session::Of(connection).cutter(); }

class MessagesTest : public ScenarioTest, public ::testing::WithParamInterface<bool> {
 protected:
  [[nodiscard]] Scenario::Setup Setup(const FramingPtr& framing) const {
    return With(framing, GetParam());
  }
  // Whichever hook is wanted does this, once each time.
  static void OnHook(Scenario& scenario, const std::function<void(Connection&)>& what) {
    scenario.handler().on_message = [what](Connection& connection, Message&) { what(connection); };
    scenario.handler().on_messages = [what](Connection& connection, std::span<Message>) {
      what(connection);
    };
  }
};

// ---- Another framing.

// The hook of a send runs behind those of what was received.
TEST_P(MessagesTest, AFramingThatAWriteHookSetsCutsWhatIsKept) {
  Scenario scenario(Setup(Lines()));
  const auto client = scenario.Connect();
  client->Send("ab");
  scenario.StepAll();
  scenario.handler().on_write = [](Connection& connection, std::size_t) {
    connection.SetFraming(FixedSize(2));
  };
  scenario.ConnectionOf(client).Send("x", 1);
  scenario.StepAll();
  EXPECT_EQ(scenario.Of(client).messages, Messages{"ab"});
}

TEST_P(MessagesTest, AFramingThatIsSetInTheLastMomentCompletesTheMessage) {
  Scenario::Setup setup = Setup(Lines());
  setup.options.message_timeout = seconds(1);
  Scenario scenario(setup);
  const auto client = scenario.Connect();
  client->Send("ab");
  scenario.StepAll();
  scenario.handler().on_write = [](Connection& connection, std::size_t) {
    connection.SetFraming(FixedSize(2));
  };
  scenario.LetCome(
      [](const Completion& completion) { return completion.operation != Operation::kSend; });
  scenario.ConnectionOf(client).Send("x", 1);
  scenario.StepAll();
  scenario.network().AdvanceTo(scenario.network().now() + milliseconds(1100));
  scenario.LetAllCome();
  scenario.PassTime(seconds(2));
  EXPECT_EQ(scenario.Of(client).messages, Messages{"ab"});
  EXPECT_FALSE(scenario.Of(client).closed);
}

// Wherever the network has cut the stream.
TEST_P(MessagesTest, ASwitchIsBehindTheMessageAndNotBehindWhatIsSkipped) {
  const std::string stream = "\2a\0\0\0xy"s;
  for (std::size_t cut = 0; cut < stream.size(); ++cut) {
    Scenario scenario(Setup(Cobs()));
    OnHook(scenario, [](Connection& connection) { connection.SetFraming(nullptr); });
    const auto client = scenario.Connect();
    client->Send(stream.substr(0, cut));
    scenario.StepAll();
    client->Send(stream.substr(cut));
    scenario.StepAll();
    EXPECT_EQ(scenario.Of(client).messages, Messages{"a"}) << cut;
    EXPECT_EQ(scenario.Of(client).received, "\0\0xy"s) << cut;
  }
}

// One message each hook: the second is cut by the other framing. A list: it is a part of it.
TEST_P(MessagesTest, ASwitchIsBehindTheListThatIsHandled) {
  Scenario scenario(Setup(Lines()));
  OnHook(scenario, [](Connection& connection) { connection.SetFraming(FixedSize(3)); });
  const auto client = scenario.Connect();
  client->Send("a\nb\ncdefg");
  scenario.StepAll();
  client->Send("h");
  scenario.StepAll();
  EXPECT_EQ(scenario.Of(client).messages,
            GetParam() ? (Messages{"a", "b", "cde", "fgh"}) : (Messages{"a", "b\nc", "def"}));
}

TEST_P(MessagesTest, ASwitchFromElsewhereCutsTheBeginningThatIsKept) {
  for (const std::size_t size : {std::size_t{6}, std::size_t{50'000}}) {
    Scenario scenario(Setup(LengthPrefix()));
    const auto client = scenario.Connect();
    std::string frame = "\0\1\0\0"s;
    while (frame.size() < size) frame += std::to_string(frame.size()) + ",";
    if (frame.size() % 2 != 0) frame += ",";
    for (std::size_t i = 0; i < frame.size(); i += 20'000) {
      client->Send(frame.substr(i, 20'000));
      scenario.PassTime(milliseconds(20));
    }
    Connection& connection = scenario.ConnectionOf(client);
    EXPECT_EQ(CutterOf(connection).kept(), frame.size());
    connection.SetFraming(FixedSize(frame.size() / 2));
    connection.SetFraming(nullptr);
    connection.SetFraming(FixedSize(frame.size() / 2));
    scenario.StepAll();
    EXPECT_EQ(scenario.Of(client).messages,
              (Messages{frame.substr(0, frame.size() / 2), frame.substr(frame.size() / 2)}));
  }
}

// ---- Pauses.

// Whoever has the lock that the batch waits for pauses the connection, or closes it.
TEST_P(MessagesTest, APauseBetweenTheCutAndTheHookHoldsTheMessageBack) {
  for (const bool closes : {false, true}) {
    Scenario scenario(Setup(Cobs()));
    const auto client = scenario.Connect();
    Connection& connection = scenario.ConnectionOf(client);
    scenario.handler().on_batch = [&] { closes ? connection.Close() : connection.PauseReading(); };
    client->Send("\3ab\0\2c\0"s);
    scenario.StepAll();
    scenario.handler().on_batch = nullptr;
    EXPECT_TRUE(scenario.Of(client).messages.empty());
    if (closes) continue;
    EXPECT_TRUE(Session::Of(connection).inbound().port_paused());
    connection.ResumeReading();
    scenario.StepAll();
    EXPECT_EQ(scenario.Of(client).messages, (Messages{"ab", "c"})) << "decoded once";
    EXPECT_FALSE(Session::Of(connection).inbound().port_paused());
  }
}

TEST_P(MessagesTest, MessagesThatWaitPauseThePort) {
  Scenario::Setup setup = Setup(Lines());
  setup.options.buffer_size = 512;
  Scenario scenario(setup);
  OnHook(scenario, [](Connection& connection) { connection.PauseReading(); });
  const auto client = scenario.Connect();
  Connection& connection = scenario.ConnectionOf(client);
  std::string rest;
  for (int i = 0; i < 20'000; ++i) rest += std::to_string(i) + "\n";
  const std::string all = rest;
  for (int i = 0; i < 100; ++i) {
    rest.erase(0, client->Send(rest));
    scenario.PassTime(milliseconds(1));
  }
  EXPECT_TRUE(Session::Of(connection).inbound().port_paused());
  EXPECT_LE(connection.bytes_received(), 4096U);
  while (!rest.empty() || client->state() != Peer::State::kOpen) {
    connection.ResumeReading();
    scenario.PassTime(milliseconds(1));
    rest.erase(0, client->Send(rest));
  }
  scenario.handler().on_message = nullptr;
  scenario.handler().on_messages = nullptr;
  connection.ResumeReading();
  scenario.StepAll();
  std::string joined;
  for (const std::string& message : scenario.Of(client).messages) joined += message + "\n";
  EXPECT_TRUE(joined == all);
}

// ---- Slow peers.

TEST_P(MessagesTest, OneByteATickGrowsTheMemoryByThatByte) {
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

// ---- The end of the stream.

// A delimiter that might have become longer is one, and then the stream is over; or it ends inside.
TEST_P(MessagesTest, TheEndCompletesADelimiterThatMightHaveBecomeLonger) {
  for (const bool inside : {false, true}) {
    Scenario scenario(Setup(Delimiter({"\r", "\r\n"})));
    const auto client = scenario.Connect();
    client->Send("a\r\nb\r");
    scenario.StepAll();
    EXPECT_EQ(scenario.Of(client).messages, Messages{"a"});
    if (inside) client->Send("c");
    client->EndStream();
    scenario.PassTime(seconds(1));
    EXPECT_EQ(scenario.Of(client).messages, (Messages{"a", "b"}));
    EXPECT_EQ(scenario.Of(client).closed,
              inside ? CloseReason::kFrameError : CloseReason::kPeerClosed);
    EXPECT_EQ(scenario.Of(client).ended, !inside);
  }
}

INSTANTIATE_TEST_SUITE_P(Hooks, MessagesTest, ::testing::Bool(),
                         [](const auto& lists) { return lists.param ? "Lists" : "One"; });

// ---- Memory.

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
TEST_P(MessagesTest, WithoutMemoryAConnectionEndsAndNothingIsLost) {
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
