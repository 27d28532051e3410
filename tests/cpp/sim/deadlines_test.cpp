// Deadlines, in one order of events each: a hook that takes long, a client that does something
// meanwhile, and a look at who is closed.
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <optional>
#include <stdexcept>
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

// ---- receive_timeout, and timeouts of a connection's own.

TEST_F(DeadlinesTest, WhoOnlyTakesBytesIsSilent) {
  for (Scenario::Setup setup : Setups()) {
    setup.options.receive_timeout = seconds(1);
    setup.options.idle_timeout = seconds(2);
    Scenario scenario(setup);
    const auto listens = scenario.Connect();
    const auto talks = scenario.Connect();
    std::string received;
    for (int i = 0; i < 9; ++i) {
      scenario.PassTime(milliseconds(100));
      talks->Send(".");
      EXPECT_EQ(scenario.ConnectionOf(listens).Send("x", 1), SendResult::kAccepted);
      received += listens->Receive(10);
    }
    EXPECT_FALSE(scenario.Of(listens).closed);
    scenario.PassTime(milliseconds(110));
    EXPECT_EQ(scenario.Of(listens).closed, CloseReason::kReceiveTimeout);
    EXPECT_EQ(received + scenario.ReceiveAll(listens), std::string(9, 'x'));
    EXPECT_EQ(listens->state(), SimPeer::State::kEnded);
    EXPECT_EQ(scenario.stats().closed[static_cast<std::size_t>(CloseReason::kReceiveTimeout)], 1U);
    EXPECT_FALSE(scenario.Of(talks).closed);
    scenario.PassTime(seconds(1));
    EXPECT_EQ(scenario.Of(talks).closed, CloseReason::kReceiveTimeout);
  }
}

TEST_F(DeadlinesTest, WhoSpeaksWhileAHookRunsIsNotSilent) {
  for (Scenario::Setup setup : Setups()) {
    setup.options.receive_timeout = seconds(1);
    Scenario scenario(setup);
    const auto busy = scenario.Connect();
    const auto talks = scenario.Connect();
    const auto silent = scenario.Connect();
    scenario.PassTime(milliseconds(500));
    KeepWorker(scenario, busy, [&] { talks->Send("."); });
    scenario.PassTime(milliseconds(50));
    EXPECT_FALSE(scenario.Of(talks).closed);
    EXPECT_EQ(scenario.Of(silent).closed, CloseReason::kReceiveTimeout) << "and on time";
  }
}

TEST_F(DeadlinesTest, WhoIsSilentStillGetsWhatTheSystemHas) {
  for (Scenario::Setup setup : Setups()) {
    setup.window = 300;
    setup.options.receive_timeout = seconds(1);
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    const std::string data(290, 'd');
    EXPECT_EQ(scenario.ConnectionOf(client).Send(data.data(), data.size()), SendResult::kAccepted);
    scenario.PassTime(milliseconds(1010));
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kReceiveTimeout);
    EXPECT_EQ(scenario.ReceiveAll(client), data);
    EXPECT_EQ(client->state(), SimPeer::State::kEnded);
  }
}

// A send that the system is about to take says nothing about the peer's voice.
TEST_F(DeadlinesTest, WhoIsSilentWhileTheSystemTakesASendIsClosed) {
  for (Scenario::Setup setup : Setups()) {
    setup.options.receive_timeout = seconds(1);
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    scenario.PassTime(milliseconds(995));
    EXPECT_FALSE(scenario.Of(client).closed);
    scenario.LetCome([](const Completion& completion) {
      return completion.operation != Operation::kSend ||
             completion.error.kind == ErrorKind::kCancelled;
    });
    EXPECT_EQ(scenario.ConnectionOf(client).Send("x", 1), SendResult::kAccepted);
    scenario.PassTime(milliseconds(20));
    scenario.LetAllCome();
    scenario.StepAll();
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kReceiveTimeout);
  }
}

TEST_F(DeadlinesTest, TheTimeToBeHeardStandsStillWhileReadingIsPaused) {
  for (Scenario::Setup setup : Setups()) {
    setup.options.receive_timeout = seconds(1);
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    Connection& connection = scenario.ConnectionOf(client);
    scenario.PassTime(milliseconds(400));
    for (int i = 0; i < 2; ++i) {
      connection.PauseReading();
      scenario.PassTime(seconds(5));
      connection.ResumeReading();
      scenario.PassTime(milliseconds(200));
      // Nothing was paused, so this changes nothing.
      connection.ResumeReading();
      scenario.PassTime(milliseconds(80));
      EXPECT_FALSE(scenario.Of(client).closed) << "nobody listened";
    }
    scenario.PassTime(milliseconds(60));
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kReceiveTimeout);
  }
}

TEST_F(DeadlinesTest, WhoSpokeBeforeOrDuringAPauseHasTheWholeTimeBehindIt) {
  for (Scenario::Setup setup : Setups()) {
    setup.options.receive_timeout = seconds(1);
    Scenario scenario(setup);
    scenario.handler().on_read = [](Connection& connection, Buffer&) { connection.PauseReading(); };
    const auto client = scenario.Connect();
    scenario.PassTime(milliseconds(900));
    client->Send("x");
    scenario.PassTime(seconds(5));
    client->Send("y");
    scenario.PassTime(seconds(5));
    scenario.handler().on_read = nullptr;
    scenario.ConnectionOf(client).ResumeReading();
    scenario.PassTime(milliseconds(990));
    EXPECT_EQ(scenario.Of(client).received, "xy");
    EXPECT_FALSE(scenario.Of(client).closed);
    scenario.PassTime(milliseconds(40));
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kReceiveTimeout);
  }
}

// The hook that pauses takes longer than the time that was left.
TEST_F(DeadlinesTest, WhoIsPausedWhenItsTimeIsUpIsNotSilent) {
  for (Scenario::Setup setup : Setups()) {
    setup.options.receive_timeout = seconds(1);
    Scenario scenario(setup);
    const auto busy = scenario.Connect();
    const auto client = scenario.Connect();
    scenario.PassTime(milliseconds(990));
    scenario.network().AdvanceTo(scenario.network().now() + milliseconds(20));
    KeepWorker(scenario, busy, [&] { scenario.ConnectionOf(client).PauseReading(); });
    scenario.PassTime(seconds(5));
    EXPECT_FALSE(scenario.Of(client).closed);
  }
}

TEST_F(DeadlinesTest, TheTimeToBeHeardStandsStillWhileTheBacklogIsLarge) {
  for (const bool reports_writes : {false, true}) {
    for (Scenario::Setup setup : Setups()) {
      setup.window = 1000;
      setup.hooks = reports_writes ? kHookAll : kHookAll & ~static_cast<unsigned>(kHookWrite);
      setup.options.receive_timeout = seconds(1);
      setup.options.write_high_water = 200;
      setup.options.write_low_water = 100;
      Scenario scenario(setup);
      const auto client = scenario.Connect();
      const std::string data(5000, 'd');
      EXPECT_EQ(scenario.ConnectionOf(client).Send(data.data(), data.size()),
                SendResult::kAccepted);
      scenario.PassTime(seconds(5));
      EXPECT_FALSE(scenario.Of(client).closed) << "it would not be read from";
      std::string received;
      for (int i = 0; i < 20 && received.size() < data.size(); ++i) {
        received += client->Receive(1000);
        scenario.PassTime(milliseconds(10));
      }
      EXPECT_EQ(received, data);
      scenario.PassTime(milliseconds(700));
      EXPECT_FALSE(scenario.Of(client).closed);
      scenario.PassTime(milliseconds(400));
      EXPECT_EQ(scenario.Of(client).closed, CloseReason::kReceiveTimeout);
    }
  }
}

// Large messages that the peer takes at once do not put the end off.
TEST_F(DeadlinesTest, WhoOnlyTakesMuchIsSilent) {
  for (Scenario::Setup setup : Setups()) {
    setup.window = 10'000;
    setup.options.receive_timeout = seconds(1);
    setup.options.write_high_water = 2000;
    setup.options.write_low_water = 500;
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    const std::string data(4000, 'd');
    for (int i = 0; i < 9; ++i) {
      scenario.PassTime(milliseconds(100));
      EXPECT_EQ(scenario.ConnectionOf(client).Send(data.data(), data.size()),
                SendResult::kAccepted);
      scenario.StepAll();
      EXPECT_EQ(client->Receive(4000).size(), 4000U);
    }
    EXPECT_FALSE(scenario.Of(client).closed);
    scenario.PassTime(milliseconds(120));
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kReceiveTimeout);
  }
}

TEST_F(DeadlinesTest, WhoHasEndedItsStreamIsNotSilent) {
  for (Scenario::Setup setup : Setups()) {
    setup.options.receive_timeout = seconds(1);
    Scenario scenario(setup);
    scenario.handler().on_end_of_stream = [](Connection&) { return EndOfStream::kKeepOpen; };
    const auto client = scenario.Connect();
    client->EndStream();
    scenario.PassTime(seconds(10));
    EXPECT_FALSE(scenario.Of(client).closed);
    scenario.ConnectionOf(client).Close();
    scenario.StepAll();
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kLocalClose);
  }
}

// Either limit of one connection, where the server has none: set, made longer and shorter, put off.
TEST_F(DeadlinesTest, AConnectionMayHaveTimeoutsOfItsOwn) {
  using Set = void (Connection::*)(std::optional<Duration>);
  for (const bool receive : {false, true}) {
    const Set set = receive ? &Connection::SetReceiveTimeout : &Connection::SetIdleTimeout;
    const CloseReason reason = receive ? CloseReason::kReceiveTimeout : CloseReason::kIdleTimeout;
    for (const Scenario::Setup& setup : Setups()) {
      Scenario scenario(setup);
      const auto own = scenario.Connect();
      const auto other = scenario.Connect();
      Connection& connection = scenario.ConnectionOf(own);
      scenario.PassTime(seconds(2));
      (connection.*set)(seconds(3));
      scenario.PassTime(milliseconds(900));
      EXPECT_FALSE(scenario.Of(own).closed);
      (connection.*set)(seconds(5));
      scenario.PassTime(seconds(1));
      EXPECT_FALSE(scenario.Of(own).closed) << "it was made longer";
      (connection.*set)(std::nullopt);
      scenario.PassTime(seconds(3));
      EXPECT_FALSE(scenario.Of(own).closed) << "it was put off";
      (connection.*set)(seconds(7));
      scenario.PassTime(milliseconds(20));
      EXPECT_FALSE(scenario.Of(own).closed);
      (connection.*set)(seconds(4));
      scenario.PassTime(milliseconds(20));
      EXPECT_EQ(scenario.Of(own).closed, reason) << "more time than that had passed";
      EXPECT_FALSE(scenario.Of(other).closed);
    }
  }
}

TEST_F(DeadlinesTest, AConnectionGoesBackToTheTimeoutsOfTheServer) {
  for (Scenario::Setup setup : Setups()) {
    setup.options.receive_timeout = seconds(1);
    Scenario scenario(setup);
    scenario.handler().on_established = [](Connection& connection) {
      EXPECT_EQ(connection.receive_timeout(), seconds(1));
      EXPECT_EQ(connection.idle_timeout(), std::nullopt);
      connection.SetReceiveTimeout(std::nullopt);
      connection.SetIdleTimeout(std::chrono::hours(1));
    };
    const auto client = scenario.Connect();
    const ConnectionPtr connection(&scenario.ConnectionOf(client));
    scenario.PassTime(seconds(3));
    EXPECT_FALSE(scenario.Of(client).closed);
    connection->InheritIdleTimeout();
    connection->InheritReceiveTimeout();
    EXPECT_EQ(connection->idle_timeout(), std::nullopt);
    scenario.PassTime(milliseconds(20));
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kReceiveTimeout);
    connection->SetReceiveTimeout(seconds(7));
    connection->InheritIdleTimeout();
    EXPECT_EQ(connection->receive_timeout(), seconds(1)) << "it has ended";
  }
}

TEST_F(DeadlinesTest, ATimeoutThatStartWouldRefuseIsRefused) {
  Scenario scenario(Scenario::Setup{});
  const auto client = scenario.Connect();
  Connection& connection = scenario.ConnectionOf(client);
  connection.SetReceiveTimeout(seconds(9));
  for (const Duration bad : {Duration::zero(), Duration(seconds(-1)), Duration::max()}) {
    try {
      connection.SetReceiveTimeout(bad);
      ADD_FAILURE() << bad.count();
    } catch (const std::invalid_argument& error) {
      EXPECT_EQ(std::string(error.what()).rfind("receive_timeout must be above 0", 0), 0U)
          << error.what();
    }
    EXPECT_THROW(connection.SetIdleTimeout(bad), std::invalid_argument);
  }
  EXPECT_EQ(connection.receive_timeout(), seconds(9));
  EXPECT_EQ(connection.idle_timeout(), std::nullopt);
}

}  // namespace
}  // namespace iocp::sim
