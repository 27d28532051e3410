// Messages, in one order of events each: who sets a framing or pauses between a byte and its hook,
// and what waits when the stream ends or breaks.
#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "message_scenarios.h"

namespace iocp::sim {
namespace {

using namespace std::string_literals;
using std::chrono::milliseconds;
using std::chrono::seconds;
using Kind = FrameFault::Kind;

class MessageOrderTest : public MessageSetupsTest {};
class MessageOrderHooksTest : public MessageHooksTest {};
INSTANTIATE_TEST_SUITE_P(Hooks, MessageOrderHooksTest, ::testing::Bool(),
                         [](const auto& lists) { return lists.param ? "Lists" : "One"; });

// ---- Another framing.

// A part of what was kept belongs to the message, and the rest is in front of what came last.
TEST_F(MessageOrderTest, WhatWasKeptStaysInFrontWhenAHookSetsAFraming) {
  for (const FramingPtr& other : {FramingPtr(), FixedSize(1)}) {
    for (const Scenario::Setup& setup : Setups(Growing())) {
      Scenario scenario(setup);
      OnEach(scenario, [&](Connection& connection, Message& message) {
        if (message.view() == "x") connection.SetFraming(other);
      });
      const auto client = scenario.Connect();
      client->Send("xabc");
      scenario.StepAll();
      client->Send("12");
      scenario.StepAll();
      client->Send("3");
      scenario.StepAll();
      if (other == nullptr) {
        EXPECT_EQ(scenario.Of(client).received, "c123");
      } else {
        EXPECT_EQ(scenario.Of(client).messages, (Messages{"x", "c", "1", "2", "3"}));
      }
    }
  }
}

TEST_F(MessageOrderTest, AFramingThatIsSetWhileTheBatchIsWaitedForCutsTheBytes) {
  for (const FramingPtr& before : {FramingPtr(), FixedSize(4)}) {
    for (const Scenario::Setup& setup : Setups(before)) {
      Scenario scenario(setup);
      const auto client = scenario.Connect();
      Connection& connection = scenario.ConnectionOf(client);
      scenario.handler().on_batch = [&] { connection.SetFraming(FixedSize(2)); };
      client->Send("abcd");
      scenario.StepAll();
      scenario.handler().on_batch = nullptr;
      EXPECT_EQ(scenario.Of(client).received, "");
      EXPECT_EQ(scenario.Of(client).messages, (Messages{"ab", "cd"}));
    }
  }
}

TEST_F(MessageOrderTest, AFramingThatAReadSetsCutsWhatHasWaitedBehindIt) {
  int cut = 0;
  for (const Scenario::Setup& setup : Setups(nullptr)) {
    Scenario scenario(setup);
    scenario.handler().on_read = [](Connection& connection, Buffer& buffer) {
      if (buffer.view() == "pause") connection.PauseReading();
      if (buffer.view() == "lines") connection.SetFraming(Lines());
    };
    const auto client = scenario.Connect();
    for (const char* bytes : {"pause", "lines", "a\nb", "c\n"}) {
      client->Send(bytes);
      scenario.StepAll();
    }
    // On a port that is not read from meanwhile it may be one receive.
    scenario.ConnectionOf(client).ResumeReading();
    scenario.StepAll();
    const RecordingHandler::Record& record = scenario.Of(client);
    if (record.received == "pauselines") {
      EXPECT_EQ(record.messages, (Messages{"a", "bc"}));
      ++cut;
    } else {
      EXPECT_EQ(record.received, "pauselinesa\nbc\n");
    }
  }
  EXPECT_GT(cut, 0);
}

TEST_F(MessageOrderTest, ATimersFramingCutsWhatIsKept) {
  for (const Scenario::Setup& setup : Setups(Lines())) {
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    client->Send("1:a,2:");
    scenario.StepAll();
    Connection& connection = scenario.ConnectionOf(client);
    connection.CallLater(milliseconds(100), [&] { connection.SetFraming(Netstring()); });
    scenario.PassTime(milliseconds(200));
    EXPECT_EQ(scenario.Of(client).messages, Messages{"a"});
    client->Send("bc,");
    scenario.StepAll();
    EXPECT_EQ(scenario.Of(client).messages, (Messages{"a", "bc"}));
  }
}

// The hook of a send runs behind those of what was received.
TEST_P(MessageOrderHooksTest, AFramingThatAWriteHookSetsCutsWhatIsKept) {
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

TEST_P(MessageOrderHooksTest, AFramingThatIsSetInTheLastMomentCompletesTheMessage) {
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
TEST_P(MessageOrderHooksTest, ASwitchIsBehindTheMessageAndNotBehindWhatIsSkipped) {
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
TEST_P(MessageOrderHooksTest, ASwitchIsBehindTheListThatIsHandled) {
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

TEST_P(MessageOrderHooksTest, ASwitchFromElsewhereCutsTheBeginningThatIsKept) {
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
TEST_P(MessageOrderHooksTest, APauseBetweenTheCutAndTheHookHoldsTheMessageBack) {
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

TEST_P(MessageOrderHooksTest, MessagesThatWaitPauseThePort) {
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

// ---- The end.

TEST_F(MessageOrderTest, TheEndInsideAMessageWaitsWhileReadingIsPaused) {
  for (const Scenario::Setup& setup : Setups(Lines())) {
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    client->Send("a\nb");
    scenario.StepAll();
    scenario.ConnectionOf(client).PauseReading();
    client->EndStream();
    scenario.PassTime(seconds(1));
    EXPECT_FALSE(scenario.Of(client).closed);
    scenario.ConnectionOf(client).ResumeReading();
    scenario.StepAll();
    EXPECT_EQ(scenario.Of(client).fault.kind, Kind::kTruncated);
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kFrameError);
    EXPECT_FALSE(scenario.Of(client).ended);
  }
}

// With the end nothing can make the delimiter longer: there are two messages, and a pause between
// them, or another framing.
TEST_F(MessageOrderTest, WhatIsKeptAtTheEndOfTheStreamIsDeliveredInOrder) {
  const FramingPtr growing = Delimiter({"ab", "abab!"});
  for (const int what : {0, 1, 2}) {
    for (const Scenario::Setup& setup : Setups(growing)) {
      Scenario scenario(setup);
      OnEach(scenario, [&](Connection& connection, Message& message) {
        if (message.view() != "x") return;
        if (what == 1) connection.PauseReading();
        if (what == 2) connection.SetFraming(nullptr);
      });
      const auto client = scenario.Connect();
      client->Send("xabab");
      client->EndStream();
      scenario.StepAll();
      if (what == 1) {
        EXPECT_FALSE(scenario.Of(client).ended);
        EXPECT_EQ(scenario.Of(client).messages, Messages{"x"});
        scenario.ConnectionOf(client).ResumeReading();
        scenario.StepAll();
      }
      scenario.PassTime(seconds(1));
      const RecordingHandler::Record& record = scenario.Of(client);
      EXPECT_EQ(record.messages, what == 2 ? Messages{"x"} : (Messages{"x", ""}));
      EXPECT_EQ(record.received, what == 2 ? "ab" : "");
      EXPECT_TRUE(record.ended);
      EXPECT_EQ(record.closed, CloseReason::kPeerClosed);
    }
  }
}

// The peer gets its answers and the end of our stream, and may take its time to end its own.
TEST_F(MessageOrderTest, AFaultIsReportedThoughSomebodySetsAFramingBehindIt) {
  for (const Scenario::Setup& setup : Setups(Netstring())) {
    Scenario scenario(setup);
    OnEach(scenario, [](Connection& connection, Message& message) {
      connection.SendAsMessage(message.view());
    });
    const auto client = scenario.Connect();
    Connection& connection = scenario.ConnectionOf(client);
    client->Send("1:a,x");
    scenario.StepAll();
    EXPECT_FALSE(connection.is_open());
    ASSERT_FALSE(scenario.Of(client).closed);
    EXPECT_EQ(client->Receive(1000), "1:a,");
    EXPECT_EQ(client->state(), SimPeer::State::kEnded);
    connection.SetFraming(Lines());
    client->Send("b\n");
    scenario.StepAll();
    client->EndStream();
    scenario.StepAll();
    EXPECT_EQ(scenario.Of(client).messages, Messages{"a"});
    EXPECT_EQ(scenario.Of(client).error.kind, ErrorKind::kBadFrame);
    EXPECT_EQ(scenario.Of(client).fault.kind, Kind::kMalformed);
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kFrameError);
  }
}

TEST_F(MessageOrderTest, AResetBehindAFaultLeavesTheFaultTheReason) {
  for (const Scenario::Setup& setup : Setups(Netstring())) {
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    client->Send("x");
    scenario.StepAll();
    ASSERT_FALSE(scenario.Of(client).closed);
    client->Reset();
    scenario.StepAll();
    EXPECT_EQ(scenario.Of(client).error.kind, ErrorKind::kBadFrame);
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kFrameError);
  }
}

TEST_F(MessageOrderTest, WhoDoesNotGoBehindAFaultIsClosedWhenTheTimeIsUp) {
  for (Scenario::Setup setup : Setups(Netstring())) {
    setup.options.close_timeout = seconds(3);
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    client->Send("x");
    scenario.PassTime(seconds(2));
    EXPECT_FALSE(scenario.Of(client).closed);
    scenario.PassTime(seconds(2));
    EXPECT_EQ(scenario.Of(client).error.kind, ErrorKind::kBadFrame);
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kFrameError);
  }
}

// Bytes behind the fault are not looked at.
TEST_F(MessageOrderTest, AFaultBehindAPauseIsFoundWhenReadingIsResumed) {
  for (const Scenario::Setup& setup : Setups(Netstring())) {
    Scenario scenario(setup);
    OnEach(scenario, [](Connection& connection, Message&) { connection.PauseReading(); });
    const auto client = scenario.Connect();
    client->Send("1:a,x1:b,");
    scenario.PassTime(seconds(1));
    EXPECT_EQ(scenario.Of(client).messages, Messages{"a"});
    EXPECT_FALSE(scenario.Of(client).closed);
    scenario.ConnectionOf(client).ResumeReading();
    scenario.StepAll();
    client->EndStream();
    scenario.StepAll();
    EXPECT_EQ(scenario.Of(client).messages, Messages{"a"});
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kFrameError);
  }
}

TEST_F(MessageOrderTest, AResetInsideAMessageIsAReset) {
  for (const Scenario::Setup& setup : Setups(Lines())) {
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    client->Send("a\nb");
    scenario.StepAll();
    client->Reset();
    scenario.StepAll();
    EXPECT_EQ(scenario.Of(client).error.kind, ErrorKind::kReset);
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kError);
  }
}

TEST_F(MessageOrderTest, AHookThatThrowsEndsItsConnectionBehindItsMessage) {
  for (const Scenario::Setup& setup : Setups(Lines())) {
    Scenario scenario(setup);
    OnEach(scenario, [](Connection&, Message& message) {
      if (message.view() == "bad") throw std::runtime_error("bad");
    });
    const auto client = scenario.Connect();
    client->Send("a\n");
    scenario.StepAll();
    client->Send("bad\n");
    scenario.StepAll();
    client->Send("b\n");
    scenario.StepAll();
    EXPECT_EQ(scenario.Of(client).messages, (Messages{"a", "bad"}));
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kHookError);
  }
}

// A delimiter that might have become longer is one, and then the stream is over; or it ends inside.
TEST_P(MessageOrderHooksTest, TheEndCompletesADelimiterThatMightHaveBecomeLonger) {
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

}  // namespace
}  // namespace iocp::sim
