// Messages, in one order of events each: how long one may take, who sets a framing between a byte
// and its hook, and what waits when the stream ends or breaks.
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "scenario.h"

namespace iocp::sim {
namespace {

using namespace std::string_literals;
using std::chrono::milliseconds;
using std::chrono::seconds;
using Messages = std::vector<std::string>;
using Kind = FrameFault::Kind;

// One worker on a port of its own; two that share one; reads posted ahead and none; hooks for one
// message and for lists.
std::vector<Scenario::Setup> Setups(const FramingPtr& framing) {
  std::vector<Scenario::Setup> setups;
  for (const int reads : {0, 1, 4}) {
    for (const bool shared : {false, true}) {
      for (const bool lists : {false, true}) {
        Scenario::Setup setup;
        setup.workers = shared ? 2 : 1;
        setup.shared = shared;
        setup.reads = reads;
        setup.hooks = kHookAll | (lists ? kHookMessages : 0U);
        setup.options.buffer_size = 512;
        setup.options.framing = framing;
        setups.push_back(setup);
      }
    }
  }
  return setups;
}
std::vector<Scenario::Setup> Timed(const FramingPtr& framing) {
  std::vector<Scenario::Setup> setups = Setups(framing);
  for (Scenario::Setup& setup : setups) setup.options.message_timeout = seconds(1);
  return setups;
}

FramingPtr Lines() { return Delimiter({"\n"}); }
// The first byte behind a message may be kept with it.
FramingPtr Growing() { return Delimiter({"ab", "abcd"}); }

class MessageOrderTest : public ScenarioTest {
 protected:
  void TearDown() override {
    on_each_ = nullptr;
    ScenarioTest::TearDown();
  }
  // Whichever hook is wanted does this with each message.
  void OnEach(Scenario& scenario, std::function<void(Connection&, Message&)> what) {
    on_each_ = std::move(what);
    scenario.handler().on_message = [this](Connection& connection, Message& message) {
      on_each_(connection, message);
    };
    scenario.handler().on_messages = [this](Connection& connection, std::span<Message> messages) {
      for (Message& message : messages) on_each_(connection, message);
    };
  }

 private:
  std::function<void(Connection&, Message&)> on_each_;
};

// ---- message_timeout.

TEST_F(MessageOrderTest, AMessageIsDueFromItsFirstByteOn) {
  for (const Scenario::Setup& setup : Timed(Lines())) {
    Scenario scenario(setup);
    const auto slow = scenario.Connect();
    const auto late = scenario.Connect();
    const auto silent = scenario.Connect();
    scenario.PassTime(seconds(5));
    for (int i = 0; i < 9; ++i) {
      slow->Send("x");
      scenario.PassTime(milliseconds(100));
    }
    EXPECT_FALSE(scenario.Of(slow).closed);
    late->Send("x");
    slow->Send("x");
    scenario.PassTime(milliseconds(120));
    EXPECT_EQ(scenario.Of(slow).closed, CloseReason::kMessageTimeout) << "whatever it sends";
    EXPECT_EQ(scenario.stats().closed[static_cast<std::size_t>(CloseReason::kMessageTimeout)], 1U);
    EXPECT_EQ(scenario.Of(slow).error.kind, ErrorKind::kNone);
    EXPECT_FALSE(scenario.Of(late).closed);
    scenario.PassTime(seconds(1));
    EXPECT_EQ(scenario.Of(late).closed, CloseReason::kMessageTimeout);
    EXPECT_FALSE(scenario.Of(silent).closed) << "it is inside no message";
  }
}

TEST_F(MessageOrderTest, EachMessageHasTheWholeTime) {
  for (const Scenario::Setup& setup : Timed(Lines())) {
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    client->Send("a\nb");
    for (int i = 0; i < 9; ++i) {
      scenario.PassTime(milliseconds(900));
      client->Send("c\nd");
    }
    EXPECT_FALSE(scenario.Of(client).closed);
    client->Send("\n");
    scenario.PassTime(seconds(10));
    EXPECT_FALSE(scenario.Of(client).closed) << "the last one is complete";
    EXPECT_EQ(scenario.Of(client).messages.size(), 11U);
    client->Send("x\ny");
    scenario.PassTime(milliseconds(1020));
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kMessageTimeout);
    EXPECT_EQ(scenario.Of(client).messages.size(), 12U);
  }
}

// Bytes that were kept for a longer delimiter are the beginning of the next message.
TEST_F(MessageOrderTest, AMessageThatBeganBehindAnotherIsDueToo) {
  for (const Scenario::Setup& setup : Timed(Growing())) {
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    client->Send("xabc");
    scenario.PassTime(milliseconds(900));
    EXPECT_TRUE(scenario.Of(client).messages.empty());
    client->Send("z");
    scenario.PassTime(milliseconds(900));
    EXPECT_EQ(scenario.Of(client).messages, Messages{"x"});
    EXPECT_FALSE(scenario.Of(client).closed);
    scenario.PassTime(milliseconds(120));
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kMessageTimeout);
  }
}

TEST_F(MessageOrderTest, WhatIsSkippedIsNoMessage) {
  for (const Scenario::Setup& setup : Timed(Cobs())) {
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    for (int i = 0; i < 30; ++i) {
      client->Send("\0\0"s);
      scenario.PassTime(milliseconds(100));
    }
    EXPECT_FALSE(scenario.Of(client).closed);
    client->Send("\0\5a"s);
    scenario.PassTime(milliseconds(1020));
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kMessageTimeout);
  }
}

TEST_F(MessageOrderTest, TheTimeOfALargeMessageIsThatOfItsFirstByte) {
  for (const Scenario::Setup& setup : Timed(LengthPrefix())) {
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    client->Send("\0\1\0\0"s);
    for (int i = 0; i < 10; ++i) {
      client->Send(std::string(5000, 'x'));
      scenario.PassTime(milliseconds(90));
    }
    EXPECT_FALSE(scenario.Of(client).closed);
    scenario.PassTime(milliseconds(120));
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kMessageTimeout);
  }
}

TEST_F(MessageOrderTest, TheTimeStandsStillWhileReadingIsPaused) {
  for (const Scenario::Setup& setup : Timed(Lines())) {
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    Connection& connection = scenario.ConnectionOf(client);
    client->Send("a");
    scenario.PassTime(milliseconds(600));
    connection.PauseReading();
    scenario.PassTime(seconds(9));
    connection.ResumeReading();
    scenario.PassTime(milliseconds(300));
    EXPECT_FALSE(scenario.Of(client).closed);
    scenario.PassTime(milliseconds(140));
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kMessageTimeout);
  }
}

TEST_F(MessageOrderTest, AMessageThatIsCompletedWhileAHookRunsIsInTime) {
  for (const Scenario::Setup& setup : Timed(Lines())) {
    Scenario scenario(setup);
    const auto busy = scenario.Connect();
    const auto client = scenario.Connect();
    const auto slow = scenario.Connect();
    client->Send("a");
    slow->Send("a");
    scenario.PassTime(milliseconds(500));
    OnEach(scenario, [&, first = true](Connection&, Message&) mutable {
      if (!std::exchange(first, false)) return;
      scenario.network().AdvanceTo(scenario.network().now() + milliseconds(400));
      client->Send("b\n");
      scenario.network().AdvanceTo(scenario.network().now() + milliseconds(400));
    });
    busy->Send("x\n");
    scenario.PassTime(milliseconds(820));
    EXPECT_EQ(scenario.Of(client).messages, Messages{"ab"});
    EXPECT_FALSE(scenario.Of(client).closed);
    EXPECT_EQ(scenario.Of(slow).closed, CloseReason::kMessageTimeout);
  }
}

TEST_F(MessageOrderTest, AnotherFramingBeginsTheMessageAnew) {
  for (const Scenario::Setup& setup : Timed(Lines())) {
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    client->Send("ab");
    scenario.PassTime(milliseconds(900));
    scenario.ConnectionOf(client).SetFraming(FixedSize(3));
    scenario.PassTime(milliseconds(900));
    EXPECT_FALSE(scenario.Of(client).closed);
    scenario.ConnectionOf(client).SetFraming(nullptr);
    scenario.PassTime(seconds(9));
    EXPECT_FALSE(scenario.Of(client).closed);
    EXPECT_EQ(scenario.Of(client).received, "ab");
  }
}

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

TEST_F(MessageOrderTest, AFaultIsReportedThoughSomebodySetsAFramingBehindIt) {
  for (const Scenario::Setup& setup : Setups(Netstring())) {
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    Connection& connection = scenario.ConnectionOf(client);
    scenario.LetCome([](const Completion& completion) {
      return completion.error.kind != ErrorKind::kCancelled;
    });
    client->Send("1:a,x");
    scenario.StepAll();
    EXPECT_FALSE(connection.is_open());
    if (!scenario.Of(client).closed) connection.SetFraming(Lines());
    scenario.LetAllCome();
    scenario.StepAll();
    EXPECT_EQ(scenario.Of(client).messages, Messages{"a"});
    EXPECT_EQ(scenario.Of(client).error.kind, ErrorKind::kBadFrame);
    EXPECT_EQ(scenario.Of(client).fault.kind, Kind::kMalformed);
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

}  // namespace
}  // namespace iocp::sim
