// The end of a client's stream, in one order of events each: who closes, pauses or breaks a
// connection between the end and its hook, what the hook waits for, and what a connection
// that is kept open does.
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "scenario.h"

namespace iocp::sim {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;
using State = SimPeer::State;

EndOfStream KeepOpen(Connection&) { return EndOfStream::kKeepOpen; }

void Send(Connection& connection, std::string_view data) {
  EXPECT_EQ(connection.Send(data.data(), data.size()), SendResult::kAccepted);
}

// On a thread that is no worker's.
void OnAnotherThread(const std::function<void()>& what) { std::thread(what).join(); }

class HalfCloseTest : public ScenarioTest {
 protected:
  // A client whose connection is kept open, and which has sent its last byte.
  static Scenario::Client HalfClosed(Scenario& scenario, std::string_view sends = "") {
    scenario.handler().on_end_of_stream = KeepOpen;
    Scenario::Client client = scenario.Connect();
    client->Send(sends);
    client->EndStream();
    scenario.PassTime(milliseconds(10));
    EXPECT_EQ(scenario.Of(client).received, sends);
    EXPECT_TRUE(scenario.Of(client).ended);
    return client;
  }
};

TEST_F(HalfCloseTest, AConnectionThatIsKeptOpenStaysSoUntilItIsClosed) {
  for (const Scenario::Setup& setup : Scenario::Setups()) {
    Scenario scenario(setup);
    const auto client = HalfClosed(scenario, std::string(2000, 'q'));
    scenario.PassTime(hours(24));
    ASSERT_FALSE(scenario.Of(client).closed);
    Connection& connection = scenario.ConnectionOf(client);
    EXPECT_TRUE(connection.is_open());
    OnAnotherThread([&] { Send(connection, "late "); });
    scenario.PassTime(hours(1));
    ASSERT_FALSE(scenario.Of(client).closed);
    OnAnotherThread([&] {
      Send(connection, "answer");
      connection.Close();
      EXPECT_EQ(connection.Send("x", 1), SendResult::kClosed);
    });
    EXPECT_EQ(scenario.ReceiveAll(client), "late answer");
    EXPECT_EQ(client->state(), State::kEnded);
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kLocalClose);
  }
}

TEST_F(HalfCloseTest, WhoClosesBeforeTheHookIsHeard) {
  enum class Act { kClose, kAbort };
  for (Scenario::Setup setup : Scenario::Setups()) {
    for (const Act act : {Act::kClose, Act::kAbort}) {
      // The batch begins for the end alone.
      setup.hooks = kHookEstablished | kHookEndOfStream | kHookClosing;
      Scenario scenario(setup);
      const auto client = scenario.Connect();
      Connection& connection = scenario.ConnectionOf(client);
      int batches = 0;
      scenario.handler().on_batch = [&] {
        if (++batches > 1) return;
        OnAnotherThread([&] { act == Act::kClose ? connection.Close() : connection.Abort(); });
      };
      client->Send("x");
      client->EndStream();
      scenario.ReceiveAll(client);
      EXPECT_FALSE(scenario.Of(client).ended) << "the hook of a connection that was closed";
      EXPECT_EQ(scenario.Of(client).closed,
                act == Act::kClose ? CloseReason::kLocalClose : CloseReason::kLocalAbort);
      EXPECT_EQ(client->state(), act == Act::kClose ? State::kEnded : State::kReset);
    }
  }
}

TEST_F(HalfCloseTest, AHookOfAnotherConnectionMayCloseItBeforeItsOwn) {
  for (const Scenario::Setup& setup : Scenario::Setups()) {
    Scenario scenario(setup);
    const auto ends = scenario.Connect();
    const auto talks = scenario.Connect();
    scenario.handler().on_read = [&](Connection&, Buffer&) { scenario.ConnectionOf(ends).Close(); };
    // Data is delivered before ends are.
    ends->EndStream();
    talks->Send("x");
    scenario.ReceiveAll(ends);
    EXPECT_FALSE(scenario.Of(ends).ended);
    EXPECT_EQ(scenario.Of(ends).closed, CloseReason::kLocalClose);
    EXPECT_FALSE(scenario.Of(talks).closed);
  }
}

TEST_F(HalfCloseTest, WhoPausesBeforeTheHookKeepsItWaiting) {
  for (Scenario::Setup setup : Scenario::Setups()) {
    setup.hooks = kHookEstablished | kHookEndOfStream | kHookClosing;
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    Connection& connection = scenario.ConnectionOf(client);
    int batches = 0;
    scenario.handler().on_batch = [&] {
      if (++batches == 1) OnAnotherThread([&] { connection.PauseReading(); });
    };
    client->Send("x");
    client->EndStream();
    scenario.PassTime(hours(1));
    EXPECT_FALSE(scenario.Of(client).ended);
    ASSERT_FALSE(scenario.Of(client).closed);
    OnAnotherThread([&] { connection.ResumeReading(); });
    EXPECT_EQ(scenario.ReceiveAll(client), "");
    EXPECT_TRUE(scenario.Of(client).ended);
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kPeerClosed);
  }
}

TEST_F(HalfCloseTest, APauseInTheHookKeepsNothingWaiting) {
  for (const Scenario::Setup& setup : Scenario::Setups()) {
    Scenario scenario(setup);
    scenario.handler().on_end_of_stream = [](Connection& connection) {
      Send(connection, "answer");
      connection.PauseReading();
      return EndOfStream::kClose;
    };
    const auto client = scenario.Connect();
    client->EndStream();
    EXPECT_EQ(scenario.ReceiveAll(client), "answer");
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kPeerClosed);
  }
}

TEST_F(HalfCloseTest, WhoClosesDuringTheHookIsHeard) {
  for (const EndOfStream answer : {EndOfStream::kClose, EndOfStream::kKeepOpen}) {
    for (const Scenario::Setup& setup : Scenario::Setups()) {
      Scenario scenario(setup);
      scenario.handler().on_end_of_stream = [&](Connection& connection) {
        Send(connection, "answer");
        OnAnotherThread([&] { connection.Close(); });
        return answer;
      };
      const auto client = scenario.Connect();
      client->EndStream();
      EXPECT_EQ(scenario.ReceiveAll(client), "answer");
      EXPECT_EQ(client->state(), State::kEnded);
      EXPECT_EQ(scenario.Of(client).closed, CloseReason::kLocalClose);
    }
  }
}

// Several reads are with the system; each comes to whichever worker asks.
class SharedHalfCloseTest : public HalfCloseTest {
 protected:
  static Scenario::Setup TwoWorkers() {
    Scenario::Setup setup;
    setup.workers = 2;
    setup.shared = true;
    setup.reads = 4;
    setup.options.buffer_size = 512;
    return setup;
  }
};

TEST_F(SharedHalfCloseTest, TheHookWaitsForDataInTheMailbox) {
  Scenario scenario(TwoWorkers());
  const std::string data(1000, 'd');
  scenario.handler().on_end_of_stream = KeepOpen;
  std::size_t reads = 0;
  scenario.handler().on_read = [&](Connection& connection, Buffer&) {
    if (++reads > 1) return;
    // The end came to this worker, in the same turn; the data before it comes to the other one.
    scenario.LetCome([](const Completion& c) { return IsRead(c, 1); });
    scenario.Step(1);
    EXPECT_TRUE(connection.is_open());
  };
  const auto client = scenario.Connect();
  client->Send(data);
  client->EndStream();
  scenario.LetCome([](const Completion& c) { return IsRead(c, 0) || c.error; });
  scenario.Step(0);
  EXPECT_EQ(reads, 1U);
  EXPECT_FALSE(scenario.Of(client).ended);
  scenario.LetAllCome();
  scenario.StepAll();
  EXPECT_EQ(scenario.Of(client).received, data);
  EXPECT_TRUE(scenario.Of(client).ended);
  EXPECT_FALSE(scenario.Of(client).closed);
  scenario.ConnectionOf(client).Close();
  scenario.ReceiveAll(client);
}

TEST_F(SharedHalfCloseTest, AnEndInTheMailboxComesOnceAndLast) {
  Scenario scenario(TwoWorkers());
  const std::string data(1000, 'd');
  scenario.handler().on_end_of_stream = KeepOpen;
  bool first = true;
  scenario.handler().on_read = [&](Connection& connection, Buffer&) {
    if (!std::exchange(first, false)) return;
    scenario.LetAllCome();
    scenario.Step(1);  // gets the rest of the data, and the end
    EXPECT_TRUE(connection.is_open());
  };
  const auto client = scenario.Connect();
  client->Send(data);
  client->EndStream();
  scenario.LetCome([](const Completion& c) { return IsRead(c, 0); });
  scenario.Step(0);
  EXPECT_FALSE(scenario.Of(client).ended);
  scenario.StepAll();
  EXPECT_EQ(scenario.Of(client).received, data);
  EXPECT_TRUE(scenario.Of(client).ended);
  EXPECT_FALSE(scenario.Of(client).closed);
  scenario.ConnectionOf(client).Close();
  scenario.ReceiveAll(client);
}

TEST_F(SharedHalfCloseTest, AHookOfAnotherWorkerClosesWhileTheHookRuns) {
  for (const EndOfStream answer : {EndOfStream::kClose, EndOfStream::kKeepOpen}) {
    Scenario scenario(TwoWorkers());
    const auto client = scenario.Connect();
    const auto other = scenario.Connect();
    scenario.handler().on_read = [&](Connection&, Buffer&) {
      scenario.ConnectionOf(client).Close();
    };
    scenario.handler().on_end_of_stream = [&](Connection& connection) {
      other->Send("x");
      const std::size_t waits = 1 - scenario.InTurn();
      for (int i = 0; i < 5; ++i) scenario.Step(waits);
      EXPECT_FALSE(connection.is_open());
      return answer;
    };
    client->EndStream();
    scenario.ReceiveAll(client);
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kLocalClose);
  }
}

TEST_F(HalfCloseTest, TheHookWaitsForDeferredData) {
  for (const Scenario::Setup& setup : Scenario::Setups()) {
    Scenario scenario(setup);
    scenario.handler().on_read = [](Connection& connection, Buffer&) { connection.PauseReading(); };
    const auto client = scenario.Connect();
    Connection& connection = scenario.ConnectionOf(client);
    const std::string data(2000, 'd');
    client->Send(data);
    client->EndStream();
    scenario.PassTime(seconds(1));
    // It pauses again behind each read.
    for (int i = 0; i < 100 && scenario.Of(client).received != data; ++i) {
      EXPECT_FALSE(scenario.Of(client).ended);
      connection.ResumeReading();
      scenario.PassTime(milliseconds(10));
    }
    EXPECT_EQ(scenario.Of(client).received, data);
    EXPECT_FALSE(scenario.Of(client).ended) << "it is paused behind the last data";
    connection.ResumeReading();
    scenario.ReceiveAll(client);
    EXPECT_TRUE(scenario.Of(client).ended);
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kPeerClosed);
  }
}

TEST_F(HalfCloseTest, CloseWhileTheEndWaitsComesWithoutTheHook) {
  for (const Scenario::Setup& setup : Scenario::Setups()) {
    Scenario scenario(setup);
    scenario.handler().on_read = [](Connection& connection, Buffer&) { connection.PauseReading(); };
    const auto client = scenario.Connect();
    client->Send(std::string(2000, 'd'));
    client->EndStream();
    scenario.PassTime(seconds(1));
    Connection& connection = scenario.ConnectionOf(client);
    Send(connection, "answer");
    connection.Close();
    EXPECT_EQ(scenario.ReceiveAll(client), "answer");
    EXPECT_FALSE(scenario.Of(client).ended);
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kLocalClose);
  }
}

// A client that has ended its stream takes more than the high mark little by little.
TEST_F(HalfCloseTest, FlowControlHoldsNoAnswerBack) {
  for (Scenario::Setup setup : Scenario::Setups()) {
    setup.window = 300;
    setup.options.write_high_water = 2000;
    setup.options.write_low_water = 1000;
    Scenario scenario(setup);
    const auto client = HalfClosed(scenario, "go");
    Connection& connection = scenario.ConnectionOf(client);
    std::string sent;
    for (int i = 0; i < 10; ++i) {
      const std::string piece(1000, static_cast<char>('a' + i));
      Send(connection, piece);
      sent += piece;
      scenario.StepAll();
    }
    connection.Close();
    EXPECT_EQ(scenario.ReceiveAll(client), sent);
    EXPECT_EQ(client->state(), State::kEnded);
    EXPECT_EQ(scenario.Of(client).written.size(), 10U);
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kLocalClose);
  }
}

TEST_F(HalfCloseTest, TheEndWaitsWhileTheBacklogIsAboveTheHighMark) {
  for (Scenario::Setup setup : Scenario::Setups()) {
    setup.window = 300;
    setup.options.write_high_water = 2000;
    setup.options.write_low_water = 1000;
    Scenario scenario(setup);
    scenario.handler().on_end_of_stream = KeepOpen;
    const auto client = scenario.Connect();
    Connection& connection = scenario.ConnectionOf(client);
    const std::string answer(10'000, 'a');
    Send(connection, answer);
    scenario.StepAll();
    client->Send("more");
    client->EndStream();
    scenario.PassTime(seconds(10));
    EXPECT_EQ(scenario.Of(client).received, "");
    EXPECT_FALSE(scenario.Of(client).ended);
    std::string received;
    while (received.size() < answer.size() && client->state() == State::kOpen) {
      received += client->Receive(1000);
      scenario.PassTime(milliseconds(10));
    }
    EXPECT_EQ(received, answer);
    EXPECT_EQ(scenario.Of(client).received, "more");
    EXPECT_TRUE(scenario.Of(client).ended);
    ASSERT_FALSE(scenario.Of(client).closed);
    connection.Close();
    scenario.ReceiveAll(client);
  }
}

TEST_F(HalfCloseTest, AResetBehindTheEndIsNoticedWithTheNextSend) {
  for (const Scenario::Setup& setup : Scenario::Setups()) {
    Scenario scenario(setup);
    const auto client = HalfClosed(scenario, "x");
    client->Reset();
    scenario.PassTime(seconds(1));
    ASSERT_FALSE(scenario.Of(client).closed);
    Send(scenario.ConnectionOf(client), "y");
    scenario.PassTime(seconds(1));
    EXPECT_EQ(scenario.Of(client).error.kind, ErrorKind::kReset);
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kError);
  }
}

TEST_F(HalfCloseTest, ABrokenStreamHasNoEnd) {
  for (const Scenario::Setup& setup : Scenario::Setups()) {
    Scenario scenario(setup);
    scenario.handler().on_end_of_stream = KeepOpen;
    const auto client = scenario.Connect();
    client->Send("x");
    scenario.PassTime(milliseconds(10));
    client->Reset();
    scenario.PassTime(seconds(1));
    EXPECT_FALSE(scenario.Of(client).ended);
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kError);
  }
}

TEST_F(HalfCloseTest, AClientThatWasNeverReportedHasNoEnd) {
  for (Scenario::Setup setup : Scenario::Setups()) {
    setup.options.established_on = EstablishedOn::kFirstData;
    Scenario scenario(setup);
    scenario.handler().on_end_of_stream = KeepOpen;
    const auto client = scenario.Dial();
    scenario.StepAll();
    client->EndStream();
    EXPECT_EQ(scenario.ReceiveAll(client), "");
    EXPECT_EQ(client->state(), State::kEnded);
    EXPECT_TRUE(scenario.handler().records.empty());
    EXPECT_EQ(scenario.stats().connections, 0U);
  }
}

TEST_F(HalfCloseTest, IdleTimeoutCountsFromTheLastSend) {
  for (Scenario::Setup setup : Scenario::Setups()) {
    setup.options.idle_timeout = seconds(10);
    Scenario scenario(setup);
    const auto client = HalfClosed(scenario, "x");
    for (int i = 0; i < 5; ++i) {
      scenario.PassTime(seconds(8));
      ASSERT_FALSE(scenario.Of(client).closed);
      Send(scenario.ConnectionOf(client), "y");
      scenario.StepAll();
      EXPECT_EQ(client->Receive(1), "y");
    }
    scenario.PassTime(seconds(11));
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kIdleTimeout);
  }
}

TEST_F(HalfCloseTest, WriteTimeoutCutsWhoTakesNothing) {
  for (Scenario::Setup setup : Scenario::Setups()) {
    setup.window = 300;
    setup.options.write_timeout = seconds(10);
    Scenario scenario(setup);
    const auto client = HalfClosed(scenario, "x");
    Send(scenario.ConnectionOf(client), std::string(10'000, 'a'));
    scenario.PassTime(seconds(9));
    EXPECT_FALSE(scenario.Of(client).closed);
    scenario.PassTime(seconds(12));
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kWriteTimeout);
  }
}

// It has shown what it had to send: nothing.
TEST_F(HalfCloseTest, FirstDataTimeoutIsOverWithTheEnd) {
  for (Scenario::Setup setup : Scenario::Setups()) {
    setup.options.first_data_timeout = seconds(10);
    Scenario scenario(setup);
    const auto client = HalfClosed(scenario);
    scenario.PassTime(seconds(60));
    ASSERT_FALSE(scenario.Of(client).closed);
    scenario.ConnectionOf(client).Close();
    scenario.ReceiveAll(client);
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kLocalClose);
  }
}

TEST_F(HalfCloseTest, AServerThatStopsClosesIt) {
  for (Scenario::Setup setup : Scenario::Setups()) {
    setup.window = 300;
    Scenario scenario(setup);
    const auto quiet = HalfClosed(scenario);
    const auto stuck = HalfClosed(scenario);
    Send(scenario.ConnectionOf(stuck), std::string(1000, 'a'));
    scenario.StepAll();
    scenario.RequestStop(seconds(2));
    scenario.PassTime(milliseconds(100));
    EXPECT_EQ(scenario.Of(quiet).closed, CloseReason::kShutdown);
    EXPECT_FALSE(scenario.Of(stuck).closed) << "it has time to take the rest";
    scenario.PassTime(seconds(2));
    EXPECT_EQ(scenario.Of(stuck).closed, CloseReason::kShutdown);
    scenario.ReceiveAll(stuck);
    EXPECT_EQ(stuck->state(), State::kReset);
    EXPECT_TRUE(scenario.all_left());
  }
}

}  // namespace
}  // namespace iocp::sim
