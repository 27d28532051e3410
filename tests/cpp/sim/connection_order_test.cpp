// One connection in a forced order of events: its data, its hooks and its end. Each order is one in
// which the original went wrong; docs/evidence/testing.md has the list of its defects.
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "memory.h"
#include "pattern.h"
#include "scenario.h"

namespace iocp::sim {
namespace {

using std::chrono::milliseconds;
using State = SimPeer::State;

class ConnectionOrderTest : public ScenarioTest {};

// Workers on one port, several reads outstanding: what the original had.
Scenario::Setup Original(int workers = 2) {
  Scenario::Setup setup;
  setup.workers = workers;
  setup.shared = true;
  setup.reads = 4;
  setup.options.buffer_size = 512;
  return setup;
}

std::string Bytes(std::size_t size) { return Pattern(1).At(0, size); }

// Bytes that a test lends to a send.
struct Loan {
  std::string bytes;
  int returned = 0;

  SharedBytes shared() { return {bytes.data(), bytes.size(), &Return, this}; }
  static void Return(void* self) { ++static_cast<Loan*>(self)->returned; }
};

TEST_F(ConnectionOrderTest, TheEndOfTheStreamWaitsForTheDataBeforeIt) {
  Scenario scenario(Original());
  const auto client = scenario.Connect();
  const std::string data = Bytes(1000);
  client->Send(data);
  client->EndStream();
  scenario.LetCome([](const Completion& c) { return static_cast<bool>(c.error); });
  scenario.StepAll();
  scenario.LetCome([](const Completion& c) { return c.error || IsRead(c, 1); });
  scenario.StepAll();
  EXPECT_EQ(scenario.Of(client).received, "");
  EXPECT_FALSE(scenario.Of(client).closed) << "closed before its data was delivered";
  scenario.LetAllCome();
  scenario.ReceiveAll(client);
  EXPECT_EQ(scenario.Of(client).received, data);
  EXPECT_EQ(scenario.Of(client).closed, CloseReason::kPeerClosed);
}

TEST_F(ConnectionOrderTest, TheEndOfTheStreamWaitsForAHookOfAnotherWorker) {
  Scenario scenario(Original());
  const std::string data = Bytes(1000);
  bool first = true;
  scenario.handler().on_read = [&](Connection& connection, Buffer&) {
    if (!std::exchange(first, false)) return;
    scenario.LetAllCome();
    scenario.Step(1);  // gets the rest of the data, and the end
    EXPECT_TRUE(connection.is_open());
    EXPECT_EQ(connection.Send("answer", 6), SendResult::kAccepted);
  };
  const auto client = scenario.Connect();
  client->Send(data);
  client->EndStream();
  scenario.LetCome([](const Completion& c) { return IsRead(c, 0); });
  scenario.Step(0);
  EXPECT_EQ(scenario.ReceiveAll(client), "answer");
  EXPECT_EQ(scenario.Of(client).received, data);
  EXPECT_EQ(scenario.Of(client).closed, CloseReason::kPeerClosed);
}

TEST_F(ConnectionOrderTest, OneWorkerAtATimePutsReadsInOrder) {
  Scenario scenario(Original(3));
  const std::string data = Bytes(std::size_t{4} * 512);
  std::vector<std::size_t> waiting;  // for what was before them
  scenario.handler().on_read = [&](Connection& connection, Buffer&) {
    if (!waiting.empty()) return;
    const ReorderQueue& reorder = Session::Of(connection).inbound().reorder();
    waiting.push_back(reorder.waiting());
    // Completions that come to others while this worker owns the connection leave its queue alone.
    scenario.LetCome([](const Completion& c) { return IsRead(c, 3); });
    scenario.Step(1);
    waiting.push_back(reorder.waiting());
    scenario.LetCome([](const Completion& c) { return IsRead(c, 1); });
    scenario.Step(2);
    waiting.push_back(reorder.waiting());
  };
  const auto client = scenario.Connect();
  client->Send(data);
  scenario.LetCome([](const Completion& c) { return IsRead(c, 2); });
  scenario.Step(1);
  scenario.LetCome([](const Completion& c) { return IsRead(c, 0); });
  scenario.Step(0);
  scenario.LetAllCome();
  scenario.StepAll();
  EXPECT_EQ(waiting, (std::vector<std::size_t>{1, 1, 1}));
  EXPECT_EQ(scenario.Of(client).received, data);
}

TEST_F(ConnectionOrderTest, ASessionLivesUntilItsLastHookIsDone) {
  Scenario scenario(Original());
  const auto client = scenario.Connect();
  Scenario::Client newcomer;
  const std::uint64_t id = scenario.ConnectionOf(client).id();
  std::vector<std::uint64_t> free_contexts;
  const auto look = [&] { free_contexts.push_back(scenario.stats().free_contexts); };
  scenario.handler().on_read = [&](Connection& connection, Buffer&) {
    // The connection breaks, and another worker gets its last completion.
    client->Reset();
    for (int i = 0; i < 5; ++i) scenario.Step(1);
    look();
    newcomer = scenario.Dial();
    for (int i = 0; i < 5; ++i) scenario.Step(1);
    EXPECT_NE(&scenario.ConnectionOf(newcomer), &connection) << "released while its hook runs";
    EXPECT_EQ(connection.id(), id);
    EXPECT_FALSE(scenario.Of(client).closed);
    connection.Send("to nobody", 9);
  };
  scenario.handler().on_closing = [&](Connection& connection, CloseReason) {
    look();
    EXPECT_EQ(connection.id(), id);
    for (int i = 0; i < 5; ++i) scenario.Step(1);
    look();
  };
  client->Send("x");
  scenario.Step(0);
  scenario.StepAll();
  EXPECT_EQ(scenario.Of(client).closed, CloseReason::kError);
  EXPECT_EQ(free_contexts, (std::vector<std::uint64_t>{0, 0, 0})) << "released before a hook ended";
  EXPECT_EQ(scenario.stats().free_contexts, 1U);
}

// A read and a send are outstanding when it is aborted; their ends come to different workers.
TEST_F(ConnectionOrderTest, ReleasedOnceByWhoeverTakesTheLastReference) {
  Scenario::Setup setup = Original();
  setup.window = 256;
  Scenario scenario(setup);
  const auto client = scenario.Connect();
  ConnectionPtr kept(&scenario.ConnectionOf(client));
  const std::string data = Bytes(1000);
  EXPECT_EQ(kept->Send(data.data(), data.size()), SendResult::kAccepted);
  scenario.StepAll();
  ASSERT_TRUE(Session::Of(*kept).outbound().in_flight());
  ASSERT_TRUE(Session::Of(*kept).inbound().in_flight());
  kept->Abort();
  const auto is_send = [](const Completion& c) { return c.operation == Operation::kSend; };
  scenario.LetCome([&](const Completion& c) { return !is_send(c); });
  scenario.Step(0);  // cancels both
  scenario.Step(1);  // gets the read
  scenario.StepAll();
  EXPECT_EQ(scenario.engine().connection_count(), 1U) << "released while a send is outstanding";
  EXPECT_FALSE(scenario.Of(client).closed);
  scenario.LetAllCome();
  scenario.Step(0);  // gets the send
  scenario.Step(1);
  scenario.StepAll();
  EXPECT_EQ(scenario.Of(client).closed, CloseReason::kLocalAbort);
  EXPECT_EQ(scenario.engine().connection_count(), 0U);
  EXPECT_EQ(scenario.stats().free_contexts, 0U) << "released while it was referenced";
  kept->Abort();
  scenario.StepAll();
  kept = {};
  EXPECT_EQ(scenario.stats().free_contexts, 1U);
  const auto next = scenario.Connect();
  EXPECT_EQ(scenario.stats().free_contexts, 0U) << "released twice";
}

TEST_F(ConnectionOrderTest, ASendIsCountedBeforeItCanComplete) {
  Scenario scenario(Original());
  const auto client = scenario.Connect();
  Connection& connection = scenario.ConnectionOf(client);
  const Outbound& outbound = Session::Of(connection).outbound();
  int sends = 0;
  // Inside the port's calls: the send is with the system, and the call has not returned.
  scenario.network().yield = [&] {
    if (!outbound.in_flight() || sends++ != 0) return;
    EXPECT_EQ(outbound.backlog(), 5U);
    EXPECT_EQ(outbound.pending_sends(), 1U);
    // It completes, to another worker, before the call that started it returns.
    scenario.Step(1);
    EXPECT_EQ(client->Receive(10), "hello");
    EXPECT_LE(outbound.backlog(), 5U) << "below zero";
    EXPECT_LE(outbound.pending_sends(), 1U) << "below zero";
  };
  EXPECT_EQ(connection.Send("hello", 5), SendResult::kAccepted);
  EXPECT_EQ(connection.send_backlog(), 5U);
  scenario.Step(0);
  scenario.StepAll();
  EXPECT_GE(sends, 1);
  EXPECT_EQ(connection.send_backlog(), 0U);
  EXPECT_EQ(outbound.pending_sends(), 0U);
  EXPECT_FALSE(outbound.in_flight());
  EXPECT_EQ(scenario.Of(client).written, (std::vector<std::size_t>{5}));
}

TEST_F(ConnectionOrderTest, ASocketThatCannotBeSetUpIsReleased) {
  Scenario::Setup setup;
  setup.options.max_connections = 1;
  Scenario scenario(setup);
  scenario.network().faults.adopt_error = 1;
  for (int i = 0; i < 3; ++i) {
    const auto client = scenario.Dial();
    scenario.ReceiveAll(client);
    EXPECT_EQ(client->state(), State::kReset);
  }
  EXPECT_EQ(scenario.stats().accept_errors, 3U);
  EXPECT_EQ(scenario.stats().connections, 0U);
  EXPECT_EQ(scenario.stats().free_contexts, 1U) << "a context leaked";
  scenario.network().faults.adopt_error = 0;
  scenario.Connect();  // its place is free
}

TEST_F(ConnectionOrderTest, AConnectionWithNothingOutstandingIsReleased) {
  for (const bool abort : {false, true}) {
    Scenario scenario(Original());
    scenario.handler().on_established = [](Connection& connection) { connection.PauseReading(); };
    const auto client = scenario.Connect();
    Session& session = Session::Of(scenario.ConnectionOf(client));
    client->Send("never delivered");
    client->EndStream();
    scenario.StepAll();
    ASSERT_FALSE(session.inbound().in_flight());
    ASSERT_FALSE(session.outbound().in_flight());
    EXPECT_FALSE(scenario.Of(client).closed);
    abort ? session.Abort() : session.Close();
    scenario.StepAll();
    EXPECT_EQ(scenario.Of(client).closed,
              abort ? CloseReason::kLocalAbort : CloseReason::kLocalClose);
    EXPECT_EQ(scenario.stats().connections, 0U);
    EXPECT_EQ(scenario.stats().free_contexts, 1U);
  }
}

TEST_F(ConnectionOrderTest, ARefusedSendLeavesNothingBehind) {
  Scenario::Setup setup = Original();
  setup.options.send_backlog_limit = 10;
  Scenario scenario(setup);
  const std::string data = Bytes(5000);
  Loan loan{data};
  std::vector<SendResult> results;
  scenario.handler().on_read = [&](Connection& connection, Buffer& buffer) {
    connection.Send("0123456789", 10);
    const auto send_all = [&] {
      const std::string before(buffer.view());
      results.push_back(connection.Send(data.data(), data.size()));
      results.push_back(connection.Send(loan.shared()));
      results.push_back(connection.Send(buffer));
      EXPECT_EQ(buffer.view(), before) << "taken by a send that was refused";
    };
    send_all();
    connection.Close();
    send_all();
  };
  const auto client = scenario.Connect();
  const ConnectionPtr kept(&scenario.ConnectionOf(client));
  client->Send("x");
  scenario.StepAll();
  results.push_back(kept->Send(data.data(), data.size()));
  results.push_back(kept->Send(loan.shared()));
  using enum SendResult;
  EXPECT_EQ(results, (std::vector{kBacklogFull, kBacklogFull, kBacklogFull, kClosed, kClosed,
                                  kClosed, kClosed, kClosed}));
  EXPECT_EQ(loan.returned, 0) << "they are the caller's still";
  EXPECT_EQ(scenario.ReceiveAll(client), "0123456789");
  // The fixture checks after each test that no memory is left.
}

TEST_F(ConnectionOrderTest, AFailedSendAndAReadWithoutABufferLeaveNothingBehind) {
  Scenario scenario(Original());
  const auto broken = scenario.Connect();
  Loan loan{Bytes(5000)};
  scenario.network().faults.send_error = 1;
  EXPECT_EQ(scenario.ConnectionOf(broken).Send(loan.shared()), SendResult::kAccepted);
  scenario.StepAll();
  EXPECT_EQ(loan.returned, 1);
  EXPECT_FALSE(scenario.ConnectionOf(broken).is_open());
  broken->EndStream();
  scenario.StepAll();
  EXPECT_EQ(scenario.Of(broken).closed, CloseReason::kError);
  EXPECT_TRUE(scenario.Of(broken).written.empty());
  scenario.network().faults = {};

  class NoMemory final : public FailingMemory::Source {
    bool Fails(bool /*can_throw*/) override { return true; }
  } none;
  const auto client = scenario.Connect();
  client->Send("x");
  {
    const FailingMemory memory(&none);
    const FailingMemory::Scope armed(true);
    scenario.Step(0);
  }
  EXPECT_EQ(scenario.Of(client).received, "") << "it found a buffer after all";
  scenario.PassTime(milliseconds(100));
  EXPECT_EQ(scenario.Of(client).received, "x");
  EXPECT_EQ(scenario.stats().buffers_in_use, 0U);
}

TEST_F(ConnectionOrderTest, TheLimitsAreExactAndNothingAcceptedIsDropped) {
  Scenario::Setup setup;
  setup.options.send_backlog_limit = 2048;
  setup.options.max_pending_sends = 4;
  Scenario scenario(setup);
  const auto client = scenario.Connect();
  Connection& connection = scenario.ConnectionOf(client);
  const auto sends = [&](std::initializer_list<std::size_t> sizes) {
    std::vector<SendResult> results;
    for (const std::size_t size : sizes)
      results.push_back(connection.Send(Bytes(size).data(), size));
    return results;
  };
  using enum SendResult;
  // By their number, by their memory; the last one below the limit may be of any size. The system
  // has not been asked to take any, so the limit counts sixteen times.
  EXPECT_EQ(sends({1, 1, 1, 1, 1}),
            (std::vector{kAccepted, kAccepted, kAccepted, kAccepted, kBacklogFull}));
  scenario.StepAll();
  EXPECT_EQ(sends({12'000, 10'000, 30'000, 1}),
            (std::vector{kAccepted, kAccepted, kAccepted, kBacklogFull}));
  scenario.StepAll();
  EXPECT_EQ(sends({16 * 2048 - 48, 1}), (std::vector{kAccepted, kBacklogFull}));
  connection.Close();
  EXPECT_EQ(sends({1}), (std::vector{kClosed}));
  const std::string expected = Bytes(1) + Bytes(1) + Bytes(1) + Bytes(1) + Bytes(12'000) +
                               Bytes(10'000) + Bytes(30'000) + Bytes(16 * 2048 - 48);
  EXPECT_EQ(scenario.ReceiveAll(client), expected);
  EXPECT_EQ(client->state(), State::kEnded);
}

TEST_F(ConnectionOrderTest, TheRestOfAShortSendFollowsInOrder) {
  Scenario::Setup setup = Original();
  setup.window = 300;
  Scenario scenario(setup);
  scenario.network().faults.short_send = 1;
  const std::string data = Bytes(20'000);
  const auto client = scenario.Connect();
  Connection& connection = scenario.ConnectionOf(client);
  EXPECT_EQ(connection.Send(data.data(), 15'000), SendResult::kAccepted);
  EXPECT_EQ(connection.Send(data.data() + 15'000, 5000), SendResult::kAccepted);
  std::string received;
  for (int i = 0; i < 20'000 && received.size() < data.size(); ++i) {
    scenario.StepAll();
    const std::uint64_t sent = connection.bytes_sent();
    EXPECT_EQ(scenario.Of(client).written.size(),
              (sent < 15'000 ? 0U : 1U) + (sent < data.size() ? 0U : 1U))
        << "a send was reported before its last byte was out";
    received += client->Receive(70);
  }
  EXPECT_EQ(received, data);
  scenario.StepAll();
  EXPECT_EQ(scenario.Of(client).written, (std::vector<std::size_t>{15'000, 5000}));
  EXPECT_EQ(connection.send_backlog(), 0U);
}

// Sends of its own hook, of another worker's hook and of a plain thread, in turns.
TEST_F(ConnectionOrderTest, TheOrderIsThatInWhichSendReturned) {
  Scenario scenario(Original());
  const auto client = scenario.Connect();
  const auto other = scenario.Connect();
  Connection& connection = scenario.ConnectionOf(client);
  char next = 'a';
  const auto send = [&] {
    EXPECT_EQ(connection.Send(&next, 1), SendResult::kAccepted);
    ++next;
  };
  bool inner = false;
  scenario.handler().on_read = [&](Connection& of, Buffer&) {
    send();
    if (&of == &connection && !std::exchange(inner, true)) {
      other->Send("x");
      scenario.Step(1);
    }
    send();
  };
  send();
  client->Send("x");
  scenario.Step(0);
  send();
  scenario.StepAll();
  EXPECT_EQ(next, 'g');
  EXPECT_EQ(client->Receive(100), "abcdef");
}

TEST_F(ConnectionOrderTest, TheServerMaySpeakFirst) {
  Scenario scenario({});
  scenario.handler().on_established = [](Connection& connection) { connection.Send("220", 3); };
  const auto client = scenario.Connect();
  EXPECT_EQ(client->Receive(10), "220");
}

TEST_F(ConnectionOrderTest, CloseFlushesAndReadsThatArePostedMakeNoReset) {
  Scenario::Setup setup = Original();
  setup.window = 300;
  Scenario scenario(setup);
  const std::string data = Bytes(5000);
  const auto client = scenario.Connect();
  ConnectionPtr connection(&scenario.ConnectionOf(client));
  EXPECT_EQ(connection->Send(data.data(), data.size()), SendResult::kAccepted);
  connection->Close();
  connection = {};
  std::string received;
  for (int i = 0; i < 200 && client->state() == State::kOpen; ++i) {
    // It goes on talking: what is not read must not break what is still to come.
    client->Send("more");
    received += client->Receive(50);
    scenario.StepAll();
    client->Send("more");
  }
  EXPECT_EQ(client->state(), State::kEnded) << "a reset";
  EXPECT_EQ(received, data);
  EXPECT_FALSE(scenario.Of(client).closed) << "it did not wait for the end of the other side";
  client->EndStream();
  scenario.StepAll();
  EXPECT_EQ(scenario.Of(client).closed, CloseReason::kLocalClose);

  const auto aborted = scenario.Connect();
  scenario.ConnectionOf(aborted).Abort();
  scenario.ReceiveAll(aborted);
  EXPECT_EQ(aborted->state(), State::kReset) << "abort is the one that resets";
}

}  // namespace
}  // namespace iocp::sim
