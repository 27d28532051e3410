// Deadlines, in one order of events each: a hook that takes long, a client that does something
// meanwhile, and a look at who is closed.
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <utility>

#include "scenario.h"

namespace iocp::sim {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class DeadlinesTest : public ScenarioTest {};

// One worker on a port of its own; two that share one; reads posted ahead and none.
std::vector<Scenario::Setup> Setups() {
  std::vector<Scenario::Setup> setups;
  for (const int reads : {0, 1, 4}) {
    for (const bool shared : {false, true}) {
      Scenario::Setup setup;
      setup.shared = shared;
      setup.reads = reads;
      setups.push_back(setup);
    }
  }
  return setups;
}

// While a hook of `busy` runs, time passes and `meanwhile` happens.
void KeepWorker(Scenario& scenario, const Scenario::Client& busy, std::function<void()> meanwhile) {
  scenario.handler().on_read = [&, first = true](Connection&, Buffer&) mutable {
    if (!std::exchange(first, false)) return;
    for (int i = 0; i < 15; ++i) {
      scenario.network().AdvanceTo(scenario.network().now() + milliseconds(100));
      meanwhile();
    }
  };
  busy->Send("x");
  scenario.StepAll();
}

TEST_F(DeadlinesTest, WhoSpeaksWhileAHookRunsIsNotIdle) {
  for (Scenario::Setup setup : Setups()) {
    setup.options.idle_timeout = seconds(1);
    Scenario scenario(setup);
    const auto busy = scenario.Connect();
    const auto talks = scenario.Connect();
    const auto silent = scenario.Connect();
    scenario.PassTime(milliseconds(500));
    KeepWorker(scenario, busy, [&] { talks->Send("."); });
    scenario.PassTime(milliseconds(50));
    EXPECT_EQ(scenario.Of(talks).received, std::string(15, '.'));
    EXPECT_FALSE(scenario.Of(talks).closed);
    EXPECT_EQ(scenario.Of(silent).closed, CloseReason::kIdleTimeout) << "and on time";
    scenario.PassTime(milliseconds(1100));
    EXPECT_EQ(scenario.Of(talks).closed, CloseReason::kIdleTimeout) << "later it is silent";
  }
}

TEST_F(DeadlinesTest, WhoseFirstDataComesWhileAHookRunsIsServed) {
  for (Scenario::Setup setup : Setups()) {
    setup.options.first_data_timeout = seconds(1);
    Scenario scenario(setup);
    const auto busy = scenario.Connect();
    const auto talks = scenario.Connect();
    const auto silent = scenario.Connect();
    scenario.PassTime(milliseconds(500));
    KeepWorker(scenario, busy, [&] { talks->Send("."); });
    scenario.PassTime(milliseconds(50));
    EXPECT_FALSE(scenario.Of(talks).closed);
    EXPECT_EQ(scenario.Of(silent).closed, CloseReason::kFirstDataTimeout);
  }
}

TEST_F(DeadlinesTest, WhoTakesBytesWhileAHookRunsIsNotCutByTheWriteTimeout) {
  for (Scenario::Setup setup : Setups()) {
    setup.window = 300;
    setup.options.write_timeout = seconds(1);
    Scenario scenario(setup);
    const auto busy = scenario.Connect();
    const auto reads = scenario.Connect();
    const auto stuck = scenario.Connect();
    const std::string data(1000, 'd');
    for (const auto* client : {&reads, &stuck}) {
      EXPECT_EQ(scenario.ConnectionOf(*client).Send(data.data(), data.size()),
                SendResult::kAccepted);
    }
    scenario.PassTime(milliseconds(500));
    std::string received;
    KeepWorker(scenario, busy, [&] { received += reads->Receive(1000); });
    scenario.PassTime(milliseconds(50));
    EXPECT_FALSE(scenario.Of(reads).closed);
    for (int i = 0; i < 10; ++i) {
      received += reads->Receive(1000);
      scenario.PassTime(milliseconds(10));
    }
    EXPECT_EQ(received, data);
    scenario.PassTime(seconds(1));
    EXPECT_EQ(scenario.Of(stuck).closed, CloseReason::kWriteTimeout);
  }
}

// All of it is with the system, which the peer has take it little by little.
TEST_F(DeadlinesTest, WhoTakesLittleByLittleIsNotIdle) {
  for (Scenario::Setup setup : Setups()) {
    setup.window = 300;
    setup.options.idle_timeout = seconds(1);
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    const std::string data(280, 'd');
    EXPECT_EQ(scenario.ConnectionOf(client).Send(data.data(), data.size()), SendResult::kAccepted);
    std::string received;
    for (int i = 0; i < 12; ++i) {
      scenario.PassTime(milliseconds(900));
      EXPECT_FALSE(scenario.Of(client).closed);
      received += client->Receive(10);
    }
    scenario.PassTime(seconds(3));
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kIdleTimeout);
  }
}

// The pause is over, though the worker has not resumed the port yet.
TEST_F(DeadlinesTest, WhoSpokeBeforeReadingIsResumedIsNotIdle) {
  for (Scenario::Setup setup : Setups()) {
    setup.options.idle_timeout = seconds(1);
    Scenario scenario(setup);
    scenario.handler().on_read = [&](Connection& connection, Buffer&) {
      connection.PauseReading();
    };
    const auto busy = scenario.Connect();
    const auto talks = scenario.Connect();
    talks->Send(".");
    scenario.StepAll();
    talks->Send(".");
    scenario.StepAll();
    scenario.PassTime(milliseconds(500));
    KeepWorker(scenario, busy, [&] {
      talks->Send(".");
      scenario.ConnectionOf(talks).ResumeReading();
    });
    scenario.PassTime(milliseconds(50));
    EXPECT_FALSE(scenario.Of(talks).closed);
  }
}

// Nor is anybody whose next bytes the server itself has not tried to send.
TEST_F(DeadlinesTest, WhoTookBytesInTheTurnOfALongHookIsNotCutByTheWriteTimeout) {
  for (Scenario::Setup setup : Setups()) {
    setup.window = 300;
    setup.options.write_timeout = seconds(1);
    Scenario scenario(setup);
    const auto busy = scenario.Connect();
    const auto reads = scenario.Connect();
    const std::string data(1000, 'd');
    EXPECT_EQ(scenario.ConnectionOf(reads).Send(data.data(), data.size()), SendResult::kAccepted);
    scenario.PassTime(milliseconds(990));
    scenario.network().AdvanceTo(scenario.network().now() + milliseconds(20));
    std::string received = reads->Receive(1000);
    KeepWorker(scenario, busy, [] {});
    EXPECT_FALSE(scenario.Of(reads).closed);
    for (int i = 0; i < 10; ++i) {
      received += reads->Receive(1000);
      scenario.PassTime(milliseconds(10));
    }
    EXPECT_EQ(received, data);
  }
}

// Bytes that are not read are no sign of life: else a client that sends and never reads would stay
// for ever.
TEST_F(DeadlinesTest, WhoIsPausedAndMovesNoByteIsIdle) {
  for (Scenario::Setup setup : Setups()) {
    setup.options.idle_timeout = seconds(1);
    Scenario scenario(setup);
    scenario.handler().on_read = [](Connection& connection, Buffer&) { connection.PauseReading(); };
    const auto client = scenario.Connect();
    for (int i = 0; i < 40; ++i) {
      client->Send(std::string(10'000, 'x'));
      scenario.PassTime(milliseconds(50));
    }
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kIdleTimeout);
  }
}

TEST_F(DeadlinesTest, WhoDoesNotTakeWhatWasSentIsResetWhenTheTimeToCloseIsUp) {
  for (const bool by_stop : {false, true}) {
    for (Scenario::Setup setup : Setups()) {
      setup.window = 300;
      setup.options.close_timeout = seconds(by_stop ? 60 : 1);
      Scenario scenario(setup);
      const auto client = scenario.Connect();
      const std::string data(290, 'd');
      Connection& connection = scenario.ConnectionOf(client);
      EXPECT_EQ(connection.Send(data.data(), data.size()), SendResult::kAccepted);
      scenario.StepAll();
      EXPECT_EQ(connection.send_backlog(), 0U) << "the system has all of it";
      connection.Close();
      if (by_stop) scenario.RequestStop(seconds(1));
      scenario.PassTime(milliseconds(900));
      EXPECT_FALSE(scenario.Of(client).closed);
      scenario.PassTime(milliseconds(200));
      EXPECT_TRUE(scenario.Of(client).closed);
      EXPECT_EQ(data.rfind(scenario.ReceiveAll(client), 0), 0U);
      EXPECT_EQ(client->state(), SimPeer::State::kReset);
    }
  }
}

TEST_F(DeadlinesTest, WhoHasTakenAllAndStaysIsNotReset) {
  for (Scenario::Setup setup : Setups()) {
    setup.options.close_timeout = seconds(1);
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    Connection& connection = scenario.ConnectionOf(client);
    EXPECT_EQ(connection.Send("all", 3), SendResult::kAccepted);
    connection.Close();
    scenario.PassTime(milliseconds(1200));
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kLocalClose);
    EXPECT_EQ(scenario.ReceiveAll(client), "all");
    EXPECT_EQ(client->state(), SimPeer::State::kEnded);
  }
}

TEST_F(DeadlinesTest, WhoSendsForEverIsClosedWhenTheTimeToCloseIsUp) {
  for (Scenario::Setup setup : Setups()) {
    setup.options.close_timeout = seconds(1);
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    scenario.ConnectionOf(client).Close();
    for (int i = 0; i < 110; ++i) {
      client->Send(std::string(1000, 'x'));
      scenario.PassTime(milliseconds(10));
    }
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kLocalClose);
  }
}

TEST_F(DeadlinesTest, AResetIsReportedWhileTheConnectionIsPaused) {
  for (const Scenario::Setup& setup : Setups()) {
    for (const bool undelivered : {false, true}) {
      Scenario scenario(setup);
      scenario.handler().on_read = [](Connection& connection, Buffer&) {
        connection.PauseReading();
      };
      const auto client = scenario.Connect();
      client->Send("x");
      scenario.StepAll();
      if (undelivered) client->Send(std::string(10'000, 'y'));
      scenario.StepAll();
      client->Reset();
      scenario.StepAll();
      EXPECT_EQ(scenario.Of(client).received, "x");
      EXPECT_EQ(scenario.Of(client).error.kind, ErrorKind::kReset);
      EXPECT_EQ(scenario.Of(client).closed, CloseReason::kError);
    }
  }
}

TEST_F(DeadlinesTest, AnOrderlyEndWaitsBehindTheDataOfAPausedConnection) {
  for (const Scenario::Setup& setup : Setups()) {
    Scenario scenario(setup);
    scenario.handler().on_read = [&, first = true](Connection& connection, Buffer&) mutable {
      if (std::exchange(first, false)) connection.PauseReading();
    };
    const auto client = scenario.Connect();
    client->Send("x");
    scenario.StepAll();
    client->Send("y");
    client->EndStream();
    scenario.PassTime(seconds(1));
    EXPECT_FALSE(scenario.Of(client).closed);
    scenario.ConnectionOf(client).ResumeReading();
    scenario.StepAll();
    EXPECT_EQ(scenario.Of(client).received, "xy");
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kPeerClosed);
  }
}

// The peer ends its stream, then resets, while an answer is under way that it does not read.
TEST_F(DeadlinesTest, AResetBehindTheEndIsReportedWhileTheConnectionIsPaused) {
  for (Scenario::Setup setup : Setups()) {
    setup.window = 300;
    Scenario scenario(setup);
    scenario.handler().on_read = [](Connection& connection, Buffer&) {
      const std::string answer(5000, 'a');
      EXPECT_EQ(connection.Send(answer.data(), answer.size()), SendResult::kAccepted);
      connection.PauseReading();
    };
    const auto client = scenario.Connect();
    client->Send("x");
    client->EndStream();
    scenario.StepAll();
    EXPECT_FALSE(scenario.Of(client).closed);
    client->Reset();
    scenario.StepAll();
    EXPECT_EQ(scenario.Of(client).error.kind, ErrorKind::kReset);
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kError);
  }
}

}  // namespace
}  // namespace iocp::sim
