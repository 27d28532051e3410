// The cost of a backlog, and its end: the limit against memory, empty sends, sends that the system
// refuses.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "memory.h"
#include "scenario.h"
#include "session/session.h"
#include "stream/send_item.h"

namespace iocp::sim {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using State = SimPeer::State;
using enum SendResult;

constexpr std::string_view kFirst = "first";
constexpr std::size_t kLargeWindow = std::size_t{16} * 1024 * 1024;

class BacklogTest : public ScenarioTest {
 protected:
  // How many sends of `piece` are taken, from outside of any hook, until one is refused.
  static std::size_t Fill(Connection& connection, std::string_view piece, std::size_t most) {
    std::size_t accepted = 0;
    while (accepted < most && connection.Send(piece.data(), piece.size()) == kAccepted) ++accepted;
    return accepted;
  }
};

// Nothing was offered to the system while it is counted, so the limit counts sixteen times. The
// last send below it may be of any size.
TEST_F(BacklogTest, EachSendCountsWithTheMemoryItTakes) {
  struct Case {
    std::size_t size;
    std::size_t charge;
  };
  for (const auto& [size, charge] :
       {Case{0, 256}, Case{1, 256}, Case{208, 256}, Case{209, 512}, Case{464, 512}, Case{976, 1024},
        Case{2000, 2048}, Case{4048, 4096}, Case{4049, 4097}, Case{10'000, 10'048}}) {
    Scenario::Setup setup;
    setup.window = kLargeWindow;
    setup.options.send_backlog_limit = 100'000;
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    Connection& connection = scenario.ConnectionOf(client);
    const std::string piece(size, 'x');
    const std::size_t accepted = Fill(connection, piece, 1'000'000);
    EXPECT_EQ(accepted, (1'600'000 + charge - 1) / charge) << "of " << size << " bytes";
    EXPECT_EQ(connection.send_backlog(), accepted * size) << "the backlog is bytes to send alone";
    scenario.StepAll();
    EXPECT_EQ(connection.Send("y", 1), kAccepted) << "all are out and something is still charged";
    connection.Close();
    EXPECT_EQ(scenario.ReceiveAll(client).size(), accepted * size + 1);
    EXPECT_EQ(scenario.Of(client).written.size(), accepted + 1);
  }
}

TEST_F(BacklogTest, ASendWhoseHookRunsCountsNoMore) {
  Scenario::Setup setup;
  setup.window = kLargeWindow;
  Scenario scenario(setup);
  std::vector<std::size_t> charges;
  scenario.handler().on_write = [&](Connection& connection, std::size_t) {
    charges.push_back(Session::Of(connection).outbound().charge());
  };
  const auto client = scenario.Connect();
  Connection& connection = scenario.ConnectionOf(client);
  const std::string data(5'000'000, 'x');
  EXPECT_EQ(connection.Send(data.data(), data.size()), kAccepted);
  scenario.StepAll();
  EXPECT_EQ(charges, std::vector<std::size_t>{0});
}

TEST_F(BacklogTest, SharedBytesCountWithTheirRecord) {
  Scenario::Setup setup;
  setup.window = kLargeWindow;
  setup.options.send_backlog_limit = 2048;
  Scenario scenario(setup);
  const auto client = scenario.Connect();
  Connection& connection = scenario.ConnectionOf(client);
  const std::string bytes(100'000, 'x');
  const auto share = [&](std::size_t size) {
    return connection.Send(SharedBytes{bytes.data(), size, [](void*) {}, nullptr});
  };
  constexpr std::size_t kMost = 16 * 2048 - 256;
  EXPECT_EQ(share(kMost), kAccepted);
  EXPECT_EQ(share(1), kBacklogFull);
  scenario.StepAll();
  EXPECT_EQ(share(kMost - 1), kAccepted);
  EXPECT_EQ(share(100'000), kAccepted) << "one byte below the limit";
  EXPECT_EQ(share(1), kBacklogFull);
  connection.Close();
  EXPECT_EQ(scenario.ReceiveAll(client).size(), kMost + kMost - 1 + 100'000U);
}

TEST_F(BacklogTest, AnEmptySendCostsNothingWhereNobodyWaitsForIt) {
  Scenario::Setup setup;
  setup.hooks = kHookAll & ~static_cast<unsigned>(kHookWrite);
  setup.options.max_pending_sends = 2;
  Scenario scenario(setup);
  const auto client = scenario.Connect();
  Connection& connection = scenario.ConnectionOf(client);
  EXPECT_EQ(connection.Send(kFirst.data(), kFirst.size()), kAccepted);
  const std::size_t live = LiveAllocations();
  EXPECT_EQ(Fill(connection, "", 10'000), 10'000U);
  EXPECT_EQ(LiveAllocations(), live);
  connection.Close();
  EXPECT_EQ(connection.Send("", 0), kClosed);
  EXPECT_EQ(scenario.ReceiveAll(client), kFirst);
}

// A hook that answers many tiny messages at once, where nobody waits for each answer.
TEST_F(BacklogTest, SmallSendsShareABlockWhereNobodyWaitsForThem) {
  for (const bool in_hook : {true, false}) {
    Scenario::Setup setup;
    setup.hooks = kHookAll & ~static_cast<unsigned>(kHookWrite);
    setup.options.send_backlog_limit = 100 * 256;
    Scenario scenario(setup);
    // The first takes a small block. Each of the others takes a large one, for those behind it too.
    constexpr std::size_t kMost = 208 + 99 * 4048 + 1;
    std::size_t accepted = 0;
    const auto fill = [&](Connection& connection) { accepted = Fill(connection, "x", 1'000'000); };
    scenario.handler().on_read = [&](Connection& connection, Buffer&) { fill(connection); };
    const auto client = scenario.Connect();
    if (in_hook) {
      client->Send("go");
      scenario.StepAll();
    } else {
      fill(scenario.ConnectionOf(client));
    }
    EXPECT_GE(accepted, kMost);
    EXPECT_LE(accepted, in_hook ? kMost + setup.window + 4048 : kMost);
    scenario.ConnectionOf(client).Close();
    EXPECT_EQ(scenario.ReceiveAll(client), std::string(accepted, 'x'));
  }
}

// The system takes what a hook sends while the hook goes on.
TEST_F(BacklogTest, AHookMaySendWhateverTheSystemTakes) {
  for (const unsigned hooks : {0U + kHookAll, kHookAll & ~static_cast<unsigned>(kHookWrite)}) {
    Scenario::Setup setup;
    setup.hooks = hooks;
    setup.window = kLargeWindow;
    setup.options.send_backlog_limit = 64 * 1024;
    Scenario scenario(setup);
    const std::string piece(10'000, 'x');
    std::size_t most = 0;
    scenario.handler().on_read = [&](Connection& connection, Buffer&) {
      for (int i = 0; i < 80; ++i) {
        EXPECT_EQ(connection.Send(piece.data(), piece.size()), kAccepted) << i;
        most = std::max(most, connection.send_backlog());
      }
    };
    const auto client = scenario.Connect();
    client->Send("go");
    scenario.StepAll();
    EXPECT_LE(most, setup.options.send_backlog_limit + piece.size()) << "nothing was written";
    scenario.ConnectionOf(client).Close();
    EXPECT_EQ(scenario.ReceiveAll(client).size(), 80 * piece.size());
    const std::size_t reported = (hooks & kHookWrite) != 0 ? 80 : 0;
    EXPECT_EQ(scenario.Of(client).written, std::vector<std::size_t>(reported, piece.size()));
  }
}

// The peer may be as fast as can be: its window is smaller than an answer.
TEST_F(BacklogTest, AHookMaySendMoreThanTheSystemTakesAtOnce) {
  for (const bool sends_now : {true, false}) {
    Scenario::Setup setup;
    setup.sends_now = sends_now;
    setup.window = 4096;
    setup.options.send_backlog_limit = 100'000;
    Scenario scenario(setup);
    const std::string piece(10'000, 'x');
    scenario.handler().on_read = [&](Connection& connection, Buffer&) {
      for (int i = 0; i < 150; ++i) {
        EXPECT_EQ(connection.Send(piece.data(), piece.size()), kAccepted) << i;
      }
    };
    const auto client = scenario.Connect();
    client->Send("go");
    scenario.StepAll();
    scenario.ConnectionOf(client).Close();
    EXPECT_EQ(scenario.ReceiveAll(client).size(), 150 * piece.size());
  }
}

// Where the system cannot say at once what it takes, it has refused nothing as long as each send
// has ended by the next turn.
TEST_F(BacklogTest, WhoReadsIsNotRefusedWhereTheSystemTakesItsTime) {
  Scenario::Setup setup;
  setup.sends_now = false;
  setup.window = kLargeWindow;
  setup.options.send_backlog_limit = 1'000'000;
  Scenario scenario(setup);
  const auto client = scenario.Connect();
  Connection& connection = scenario.ConnectionOf(client);
  // Each turn sends as much as one send may carry, and twice as much comes from another thread.
  const std::string piece(SendQueue::kMaxGather, 'x');
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(connection.Send(piece.data(), piece.size()), kAccepted) << i;
    EXPECT_EQ(connection.Send(piece.data(), piece.size()), kAccepted) << i;
    scenario.Step(0);
  }
  connection.Close();
  EXPECT_EQ(scenario.ReceiveAll(client).size(), 10 * piece.size());
}

TEST_F(BacklogTest, WhoDoesNotReadIsRefusedAtTheLimitAndNotLater) {
  for (const auto& [in_hook, sends_now] :
       {std::pair{false, true}, {true, true}, {false, false}, {true, false}}) {
    Scenario::Setup setup;
    setup.sends_now = sends_now;
    setup.options.send_backlog_limit = 100'000;
    setup.options.flow_control = false;
    Scenario scenario(setup);
    const std::string piece(10'000, 'x');
    SendResult result = kAccepted;
    std::size_t accepted = 0;
    const auto send = [&](Connection& connection) {
      result = connection.Send(piece.data(), piece.size());
      if (result == kAccepted) accepted += piece.size();
    };
    scenario.handler().on_read = [&](Connection& connection, Buffer&) { send(connection); };
    const auto client = scenario.Connect();
    for (int i = 0; i < 100 && result == kAccepted; ++i) {
      if (in_hook) {
        client->Send("more");
      } else {
        send(scenario.ConnectionOf(client));
      }
      scenario.StepAll();
    }
    EXPECT_LE(accepted, 2 * setup.window + setup.options.send_backlog_limit + piece.size());
    EXPECT_EQ(result, kBacklogFull);
    scenario.ConnectionOf(client).Close();
    EXPECT_EQ(scenario.ReceiveAll(client).size(), accepted);
  }
}

// The system has taken all that it was given, only late. Another worker must not see a slow peer.
TEST_F(BacklogTest, ASendThatTookItsTimeIsForgottenOnceItIsTaken) {
  Scenario::Setup setup;
  setup.workers = 2;
  setup.options.send_backlog_limit = 1000;
  Scenario scenario(setup);
  const auto late = scenario.Connect();
  const auto other = scenario.Connect();
  Connection& connection = scenario.ConnectionOf(late);
  std::optional<SendResult> result;
  scenario.handler().on_write = [&](Connection& written, std::size_t) {
    if (&written != &connection || result) return;
    other->Send("go");
    scenario.Step(1 - scenario.InTurn());
  };
  scenario.handler().on_read = [&](Connection&, Buffer&) { result = connection.Send("z", 1); };

  scenario.LetCome([](const Completion& one) { return one.operation != Operation::kSend; });
  EXPECT_EQ(connection.Send(kFirst.data(), kFirst.size()), kAccepted);
  scenario.StepAll();
  const std::string much(2000, 'x');
  EXPECT_EQ(connection.Send(much.data(), much.size()), kAccepted);
  scenario.StepAll();
  EXPECT_EQ(connection.Send("y", 1), kBacklogFull);
  scenario.LetAllCome();
  scenario.StepAll();
  EXPECT_EQ(result, kAccepted);
  connection.Close();
  EXPECT_EQ(scenario.ReceiveAll(late).size(), kFirst.size() + much.size() + 1);
}

// A hook for what has been written that writes on, as long as the system takes it.
TEST_F(BacklogTest, WhoWritesWithoutAnEndStarvesNobody) {
  Scenario::Setup setup;
  setup.window = 1024 * 1024 * 1024;
  setup.options.send_backlog_limit = 1000;
  Scenario scenario(setup);
  const std::string piece(10'000, 'x');
  std::uint64_t busy = 0;
  const auto send = [&](Connection& connection) {
    if (connection.id() != busy) return;
    for (int i = 0; i < 3; ++i) connection.Send(piece.data(), piece.size());
  };
  scenario.handler().on_write = [&](Connection& connection, std::size_t) { send(connection); };
  const auto first = scenario.Connect();
  const auto second = scenario.Connect();
  busy = scenario.ConnectionOf(first).id();
  scenario.ConnectionOf(first).Send(piece.data(), piece.size());
  for (int i = 0; i < 3; ++i) scenario.Step(0);
  second->Send("I am here too");
  for (int i = 0; i < 3; ++i) scenario.Step(0);
  EXPECT_EQ(scenario.Of(second).received, "I am here too");
  busy = 0;
  scenario.StepAll();
}

// Tiny messages to a client that does not read: reading stops before a send is refused.
TEST_F(BacklogTest, AnEchoOfTinyMessagesIsSlowedDownAndNeverRefused) {
  Scenario::Setup setup;
  setup.window = 256;
  Scenario scenario(setup);
  std::size_t refused = 0;
  std::size_t most = 0;
  scenario.handler().on_read = [&](Connection& connection, Buffer& buffer) {
    for (const char byte : buffer.view()) {
      if (connection.Send(&byte, 1) != kAccepted) ++refused;
    }
    most = std::max(most, connection.send_backlog());
  };
  const auto client = scenario.Connect();
  std::string sent;
  for (int i = 0; i < 20'000; ++i) {
    const std::string data(100, static_cast<char>('a' + i % 26));
    sent += data.substr(0, client->Send(data));
    scenario.StepAll();
  }
  EXPECT_EQ(refused, 0U);
  EXPECT_LT(sent.size(), 2000U) << "it was read from with a full backlog";
  EXPECT_LE(most, 64U * 1024 / 256 + 256);
  client->EndStream();
  EXPECT_EQ(scenario.ReceiveAll(client), sent);
}

TEST_F(BacklogTest, AnEmptySendIsCompleteOnceAllBeforeItIsOut) {
  Scenario scenario({});
  const auto client = scenario.Connect();
  Connection& connection = scenario.ConnectionOf(client);
  EXPECT_EQ(connection.Send("", 0), kAccepted);
  EXPECT_EQ(connection.Send("", 0), kAccepted);
  // The time is up before its worker has looked at them.
  scenario.RequestStop(Duration::zero());
  scenario.PassTime(milliseconds(10));
  EXPECT_EQ(scenario.Of(client).closed, CloseReason::kShutdown);
  EXPECT_EQ(scenario.Of(client).written, (std::vector<std::size_t>{0, 0}));
  EXPECT_EQ(scenario.ReceiveAll(client), "");
  EXPECT_EQ(client->state(), State::kEnded);
}

TEST_F(BacklogTest, AnEmptySendBehindBytesThatAreDroppedIsDropped) {
  Scenario::Setup setup;
  setup.window = 5;
  Scenario scenario(setup);
  const auto client = scenario.Connect();
  Connection& connection = scenario.ConnectionOf(client);
  for (const std::string_view piece : {"", "first", "", "second", ""}) {
    EXPECT_EQ(connection.Send(piece.data(), piece.size()), kAccepted);
  }
  scenario.StepAll();
  connection.Abort();
  scenario.StepAll();
  EXPECT_EQ(scenario.Of(client).closed, CloseReason::kLocalAbort);
  EXPECT_EQ(scenario.Of(client).written, (std::vector<std::size_t>{0, 5, 0}));
}

// Workers share a port: what comes while a hook of the connection runs is left with its worker.
TEST_F(BacklogTest, WhatComesWhileAHookRunsIsBounded) {
  constexpr std::size_t kReads = 4;
  Scenario::Setup setup;
  setup.workers = 2;
  setup.shared = true;
  setup.reads = kReads;
  setup.window = 1000;
  Scenario scenario(setup);
  const auto client = scenario.Connect();
  std::string sent;
  bool in_first = false;
  scenario.handler().on_read = [&](Connection& connection, Buffer&) {
    if (std::exchange(in_first, true)) return;
    const std::size_t other = 1 - scenario.InTurn();
    for (int i = 0; i < 1000; ++i) {
      const std::string data(100, static_cast<char>('a' + i % 26));
      sent += data.substr(0, client->Send(data));
      scenario.Step(other);
    }
    Inbox& inbox = Session::Of(connection).inbox();
    const MutexLock lock(inbox.mutex());
    EXPECT_LE(inbox.mail_size(), Inbox::kMostMail + kReads);
  };
  sent += "begin";
  ASSERT_EQ(client->Send("begin"), 5U);
  scenario.StepAll();
  EXPECT_LE(sent.size(), 5 + (Inbox::kMostMail + kReads) * 100 + setup.window);
  EXPECT_EQ(scenario.Of(client).received, sent) << "it did not go on after the hook";
  client->EndStream();
  scenario.StepAll();
  EXPECT_EQ(scenario.Of(client).closed, CloseReason::kPeerClosed);
}

// The peer lives, and would wait for its reset until close_timeout.
TEST_F(BacklogTest, ASendThatTheSystemHasNoMemoryForResetsAtOnce) {
  Scenario::Setup setup;
  setup.options.close_timeout = seconds(60);
  Scenario scenario(setup);
  const auto client = scenario.Connect();
  scenario.network().faults.send_error = 1;
  scenario.network().send_error = ErrorKind::kOutOfResources;
  EXPECT_EQ(scenario.ConnectionOf(client).Send(kFirst.data(), kFirst.size()), kAccepted);
  scenario.StepAll();
  EXPECT_EQ(scenario.Of(client).closed, CloseReason::kError);
  EXPECT_EQ(scenario.Of(client).error.kind, ErrorKind::kOutOfResources);
  EXPECT_NE(scenario.Of(client).error.code, 0);
  EXPECT_EQ(client->Receive(100), "");
  EXPECT_EQ(client->state(), State::kReset);
}

}  // namespace
}  // namespace iocp::sim
