// message_timeout, in one order of events each: from the first byte of a message to its last.
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "message_scenarios.h"

namespace iocp::sim {
namespace {

using namespace std::string_literals;
using std::chrono::milliseconds;
using std::chrono::seconds;

class MessageTimingTest : public MessageSetupsTest {};

std::vector<Scenario::Setup> Timed(const FramingPtr& framing) {
  std::vector<Scenario::Setup> setups = Setups(framing);
  for (Scenario::Setup& setup : setups) setup.options.message_timeout = seconds(1);
  return setups;
}

TEST_F(MessageTimingTest, AMessageIsDueFromItsFirstByteOn) {
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

TEST_F(MessageTimingTest, EachMessageHasTheWholeTime) {
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
TEST_F(MessageTimingTest, AMessageThatBeganBehindAnotherIsDueToo) {
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

TEST_F(MessageTimingTest, WhatIsSkippedIsNoMessage) {
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

TEST_F(MessageTimingTest, TheTimeOfALargeMessageIsThatOfItsFirstByte) {
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

TEST_F(MessageTimingTest, TheTimeStandsStillWhileReadingIsPaused) {
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

TEST_F(MessageTimingTest, TheTimeStandsStillWhileTheBacklogIsLarge) {
  for (const bool flow_control : {true, false}) {
    for (Scenario::Setup setup : Timed(Lines())) {
      setup.window = 1000;
      setup.options.flow_control = flow_control;
      setup.options.write_high_water = 200;
      setup.options.write_low_water = 100;
      Scenario scenario(setup);
      const auto client = scenario.Connect();
      client->Send("a");
      scenario.PassTime(milliseconds(600));
      const std::string data(5000, 'd');
      EXPECT_EQ(scenario.ConnectionOf(client).Send(data.data(), data.size()),
                SendResult::kAccepted);
      scenario.PassTime(milliseconds(500));
      if (!flow_control) {
        EXPECT_EQ(scenario.Of(client).closed, CloseReason::kMessageTimeout);
        continue;
      }
      scenario.PassTime(seconds(9));
      EXPECT_FALSE(scenario.Of(client).closed) << "it would not be read from";
      std::string received;
      for (int i = 0; i < 20 && received.size() < data.size(); ++i) {
        received += client->Receive(1000);
        scenario.StepAll();
      }
      EXPECT_EQ(received, data);
      scenario.PassTime(milliseconds(300));
      EXPECT_FALSE(scenario.Of(client).closed);
      scenario.PassTime(milliseconds(140));
      EXPECT_EQ(scenario.Of(client).closed, CloseReason::kMessageTimeout);
    }
  }
}

TEST_F(MessageTimingTest, AMessageThatIsCompletedWhileAHookRunsIsInTime) {
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

TEST_F(MessageTimingTest, AnotherFramingBeginsTheMessageAnew) {
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

}  // namespace
}  // namespace iocp::sim
