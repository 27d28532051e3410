// When OnConnectionWritable is called: once for each fall of a backlog from above the high mark to
// the low one, and what may stand between the two.
#include <gtest/gtest.h>

#include <chrono>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "scenario.h"
#include "session/session.h"
#include "support/scrambler.h"

namespace iocp::sim {
namespace {

using std::chrono::milliseconds;
using State = SimPeer::State;
using enum SendResult;

constexpr std::size_t kHigh = 4096;
constexpr std::size_t kLow = 1024;
constexpr std::size_t kWindow = 500;

class WritableTest : public ScenarioTest {
 protected:
  // The system takes so little that a backlog falls only when the client reads.
  static Scenario::Setup Narrow() {
    Scenario::Setup setup;
    setup.window = kWindow;
    setup.options.write_high_water = kHigh;
    setup.options.write_low_water = kLow;
    return setup;
  }
  static std::size_t Charge(Connection& connection) {
    return Session::Of(connection).outbound().charge();
  }
  static void Send(Connection& connection, std::size_t size) {
    const std::string data(size, 'x');
    EXPECT_EQ(connection.Send(data.data(), size), kAccepted);
  }
  // Lets the client read until the backlog has fallen to the low mark.
  static void Drain(Scenario& scenario, const Scenario::Client& client) {
    Connection& connection = scenario.ConnectionOf(client);
    for (int i = 0; i < 1000 && Charge(connection) > kLow; ++i) {
      client->Receive(100);
      scenario.StepAll();
    }
    EXPECT_LE(Charge(connection), kLow);
  }
};

TEST_F(WritableTest, OnceWhenTheBacklogHasFallenToTheLowMark) {
  for (const bool flow_control : {true, false}) {
    Scenario::Setup setup = Narrow();
    setup.options.flow_control = flow_control;
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    Connection& connection = scenario.ConnectionOf(client);
    std::size_t charge_then = 0;
    scenario.handler().on_writable = [&](Connection& c) { charge_then = Charge(c); };
    Send(connection, 10'000);
    scenario.StepAll();
    while (Charge(connection) > kLow) {
      EXPECT_EQ(scenario.Of(client).writable, 0U) << "above the low mark";
      ASSERT_FALSE(client->Receive(100).empty());
      scenario.StepAll();
    }
    EXPECT_EQ(scenario.Of(client).writable, 1U);
    EXPECT_GT(charge_then, kLow - kWindow) << "later than it could be";
    EXPECT_LE(charge_then, kLow);
    // Down to nothing, and up to the high mark: nobody was stopped.
    connection.Close();
    scenario.ReceiveAll(client);
    EXPECT_EQ(scenario.Of(client).writable, 1U);
  }
}

TEST_F(WritableTest, NotForABacklogThatWasNeverAboveTheHighMark) {
  Scenario scenario(Narrow());
  const auto client = scenario.Connect();
  Connection& connection = scenario.ConnectionOf(client);
  for (const std::size_t sends : {4, 5, 4}) {
    for (std::size_t i = 0; i < sends; ++i) Send(connection, 976);  // a block of 1 KiB
    EXPECT_EQ(Charge(connection), sends * 1024);
    scenario.StepAll();
    while (connection.send_backlog() != 0) {
      client->Receive(100);
      scenario.StepAll();
    }
    EXPECT_EQ(scenario.Of(client).writable, sends == 5 ? 1U : 0U);
    scenario.Of(client).writable = 0;
  }
}

// A producer that goes on until it is refused would wait for ever otherwise.
TEST_F(WritableTest, AfterASendThatWasRefusedHoweverSmallTheLimit) {
  for (const bool by_number : {true, false}) {
    Scenario::Setup setup = Narrow();
    if (by_number) {
      setup.options.max_pending_sends = 3;
    } else {
      setup.options.send_backlog_limit = 50;
    }
    Scenario scenario(setup);
    std::size_t sent = 0;
    const auto produce = [&](Connection& connection) {
      while (sent < 200 && connection.Send("0123456789", 10) == kAccepted) ++sent;
    };
    scenario.handler().on_writable = produce;
    scenario.handler().on_established = produce;
    const auto client = scenario.Connect();
    std::string got;
    for (int i = 0; i < 1000 && got.size() < 2000; ++i) {
      got += client->Receive(40);
      scenario.StepAll();
    }
    EXPECT_EQ(sent, 200U);
    EXPECT_EQ(got.size(), 2000U);
    EXPECT_GT(scenario.Of(client).writable, 0U);
  }
}

TEST_F(WritableTest, OneLargeCompletionOrManySmallOnes) {
  for (const std::size_t window : {std::size_t{50}, std::size_t{100'000}}) {
    Scenario::Setup setup = Narrow();
    setup.window = window;
    setup.hooks = kHookAll & ~static_cast<unsigned>(kHookWrite);
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    Connection& connection = scenario.ConnectionOf(client);
    for (std::size_t round = 1; round <= 3; ++round) {
      for (int i = 0; i < 40; ++i) Send(connection, 200);
      scenario.StepAll();
      while (connection.send_backlog() != 0) {
        client->Receive(50);
        scenario.StepAll();
      }
      EXPECT_EQ(scenario.Of(client).writable, round);
      client->Receive(100'000);
    }
  }
}

// The last bytes of a hook's own sends may be out before it is asked again.
TEST_F(WritableTest, WhatTheHookSendsMakesItDueAgain) {
  Scenario::Setup setup = Narrow();
  Scenario scenario(setup);
  std::size_t left = 20;
  scenario.handler().on_writable = [&](Connection& connection) {
    if (left-- > 1) Send(connection, 5000);
  };
  const auto client = scenario.Connect();
  Send(scenario.ConnectionOf(client), 5000);
  std::size_t received = 0;
  scenario.StepAll();
  while (left != 0) {
    const std::string data = client->Receive(1000);
    ASSERT_FALSE(data.empty()) << "nobody goes on";
    received += data.size();
    scenario.StepAll();
  }
  EXPECT_EQ(scenario.Of(client).writable, 20U);
  scenario.ConnectionOf(client).Close();
  received += scenario.ReceiveAll(client).size();
  EXPECT_EQ(received, 20U * 5000);
}

// A producer that fills the backlog each time leaves it above the low mark for as long as it likes.
TEST_F(WritableTest, AnEndlessFeedDoesNotKeepTheClientFromBeingHeard) {
  for (const bool ends : {false, true}) {
    Scenario scenario(Narrow());
    bool feeding = true;
    const auto feed = [&](Connection& connection) {
      while (feeding && Charge(connection) <= 2 * kHigh) Send(connection, 300);
    };
    scenario.handler().on_end_of_stream = [](Connection&) { return EndOfStream::kKeepOpen; };
    scenario.handler().on_established = feed;
    scenario.handler().on_writable = feed;
    const auto client = scenario.Connect();
    std::string said;
    const auto wait_for_refill = [&] {
      const std::size_t before = scenario.Of(client).writable;
      for (int reads = 0; reads < 1000 && scenario.Of(client).writable == before; ++reads) {
        ASSERT_FALSE(client->Receive(200).empty()) << "the feed has stopped";
        scenario.StepAll();
      }
      EXPECT_GT(Charge(scenario.ConnectionOf(client)), kLow);
    };
    wait_for_refill();
    for (int i = 0; i < 20; ++i) {
      const std::string word = "word " + std::to_string(i) + ";";
      ASSERT_EQ(client->Send(word), word.size());
      scenario.StepAll();
      EXPECT_EQ(scenario.Of(client).received, said) << "read from with a full backlog";
      said += word;
      wait_for_refill();
      EXPECT_EQ(scenario.Of(client).received, said);
    }
    if (ends) {
      client->EndStream();
      scenario.StepAll();
      EXPECT_FALSE(scenario.Of(client).ended);
      wait_for_refill();
      EXPECT_TRUE(scenario.Of(client).ended) << "its end is not seen";
    }
    feeding = false;
  }
}

// A hook that runs before it in the same batch has filled the backlog again.
TEST_F(WritableTest, NotWhileTheBacklogIsAboveTheHighMarkAgain) {
  for (const std::size_t size : {std::size_t{5000}, std::size_t{2000}}) {
    Scenario scenario(Narrow());
    bool asked = false;
    scenario.handler().on_read = [&](Connection& connection, Buffer&) {
      asked = true;
      EXPECT_LE(Charge(connection), kLow);
      Send(connection, size);
    };
    const auto client = scenario.Connect();
    Send(scenario.ConnectionOf(client), 5000);
    scenario.StepAll();
    client->Send("?");  // waits for the fall
    while (!asked) {
      ASSERT_FALSE(client->Receive(100).empty());
      scenario.StepAll();
    }
    EXPECT_EQ(scenario.Of(client).writable, size > kHigh ? 0U : 1U);
    Drain(scenario, client);
    EXPECT_EQ(scenario.Of(client).writable, 1U);
  }
}

TEST_F(WritableTest, NotOnceItIsClosing) {
  for (const bool abort : {false, true}) {
    Scenario scenario(Narrow());
    const auto client = scenario.Connect();
    Connection& connection = scenario.ConnectionOf(client);
    Send(connection, 5000);
    scenario.StepAll();
    // When the batch begins, in which it would be called: another thread has had the lock until
    // now.
    scenario.handler().on_batch = [&] {
      if (Charge(connection) > kLow) return;
      if (abort) {
        connection.Abort();
      } else {
        connection.Close();
      }
    };
    Drain(scenario, client);
    EXPECT_FALSE(connection.is_open());
    scenario.StepAll();
    scenario.handler().on_batch = nullptr;
    scenario.ReceiveAll(client);
    client->EndStream();
    scenario.StepAll();
    EXPECT_EQ(scenario.Of(client).writable, 0U);
    EXPECT_EQ(scenario.Of(client).closed,
              abort ? CloseReason::kLocalAbort : CloseReason::kLocalClose);
  }
}

TEST_F(WritableTest, BehindTheEndOfTheStreamWhereItStaysOpen) {
  for (const EndOfStream answer : {EndOfStream::kKeepOpen, EndOfStream::kClose}) {
    Scenario scenario(Narrow());
    scenario.handler().on_end_of_stream = [&](Connection& connection) {
      Send(connection, 5000);
      return answer;
    };
    const auto client = scenario.Connect();
    client->EndStream();
    scenario.StepAll();
    const bool open = answer == EndOfStream::kKeepOpen;
    std::size_t received = 0;
    for (int i = 0; i < 100; ++i) {
      received += client->Receive(100).size();
      scenario.StepAll();
    }
    EXPECT_EQ(received, 5000U);
    EXPECT_EQ(scenario.Of(client).writable, open ? 1U : 0U);
    if (open) scenario.ConnectionOf(client).Close();
    scenario.ReceiveAll(client);
    EXPECT_EQ(scenario.Of(client).closed,
              open ? CloseReason::kLocalClose : CloseReason::kPeerClosed);
  }
}

TEST_F(WritableTest, AnExceptionIsThatOfTheHook) {
  Scenario scenario(Narrow());
  scenario.handler().on_writable = [](Connection&) { throw std::runtime_error("by the test"); };
  const auto client = scenario.Connect();
  Send(scenario.ConnectionOf(client), 5000);
  for (int i = 0; i < 100; ++i) {
    client->Receive(100);
    scenario.StepAll();
  }
  EXPECT_EQ(scenario.Of(client).writable, 1U);
  EXPECT_EQ(scenario.Of(client).closed, CloseReason::kHookError);
}

TEST_F(WritableTest, NobodyWantsIt) {
  Scenario::Setup setup = Narrow();
  setup.hooks = kHookAll & ~static_cast<unsigned>(kHookWritable);
  Scenario scenario(setup);
  const auto client = scenario.Connect();
  Send(scenario.ConnectionOf(client), 5000);
  scenario.StepAll();
  Drain(scenario, client);
  EXPECT_EQ(scenario.Of(client).writable, 0U);
  EXPECT_FALSE(Session::Of(scenario.ConnectionOf(client)).outbound().writable().due());
}

// Stages make more of it than was sent, and keep some of it for themselves.
TEST_F(WritableTest, BehindStages) {
  Scenario::Setup setup = Narrow();
  setup.stages = [] { return testing::Scramblers(1); };
  Scenario scenario(setup);
  testing::ScrambledPeer client(scenario.Dial());
  scenario.StepAll();
  ASSERT_EQ(scenario.handler().records.size(), 1U);
  RecordingHandler::Record& record = scenario.handler().records.begin()->second;
  std::size_t left = 10;
  scenario.handler().on_writable = [&](Connection& connection) {
    if (left-- > 1) Send(connection, 5000);
  };
  Send(*record.connection, 5000);
  std::size_t received = 0;
  for (int i = 0; i < 2000 && left != 0; ++i) {
    received += client.Receive(1000).size();
    scenario.StepAll();
  }
  EXPECT_EQ(record.writable, 10U);
  record.connection->Close();
  for (int i = 0; i < 100 && client.state() == State::kOpen; ++i) {
    received += client.Receive(1000).size();
    scenario.PassTime(milliseconds(10));
  }
  EXPECT_EQ(received, 10U * 5000);
}

// The send ends while a hook runs, and comes to the other worker, which leaves it in the mailbox.
TEST_F(WritableTest, AFallThatAnotherWorkerSees) {
  Scenario::Setup setup = Narrow();
  setup.workers = 2;
  setup.shared = true;
  setup.window = 100'000;
  setup.options.flow_control = false;  // it reads above the high mark
  Scenario scenario(setup);
  const auto client = scenario.Connect();
  scenario.handler().on_read = [&](Connection& connection, Buffer&) {
    scenario.LetAllCome();
    scenario.Step(1 - scenario.InTurn());
    EXPECT_EQ(scenario.Of(client).writable, 0U) << "while another hook runs";
    EXPECT_GT(Charge(connection), kHigh) << "the owner has seen it already";
  };
  scenario.LetCome([](const Completion& c) { return c.operation != Operation::kSend; });
  Send(scenario.ConnectionOf(client), 5000);
  scenario.StepAll();
  client->Send("?");
  scenario.StepAll();
  EXPECT_EQ(scenario.Of(client).received, "?");
  EXPECT_EQ(scenario.Of(client).writable, 1U);
}

}  // namespace
}  // namespace iocp::sim
