// One send to many connections: who takes it, what it costs, and how it is counted.
#include "session/broadcast.h"

#include <gtest/gtest.h>

#include <new>
#include <string>
#include <vector>

#include "memory.h"
#include "scenario.h"

namespace iocp::sim {
namespace {

using enum SendResult;

class BroadcastTest : public ScenarioTest {
 protected:
  static std::vector<ConnectionPtr> All(Scenario& scenario) {
    std::vector<ConnectionPtr> connections;
    scenario.engine().Snapshot(connections);
    return connections;
  }
};

TEST_F(BroadcastTest, ThoseWithAFullBacklogAreLeftAndCounted) {
  Scenario::Setup setup;
  setup.options.send_backlog_limit = 1000;
  setup.window = 100;
  setup.workers = 2;
  Scenario scenario(setup);
  std::vector<Scenario::Client> clients;
  for (int i = 0; i < 5; ++i) clients.push_back(scenario.Connect());
  const std::string much(20'000, 'x');
  for (const int full : {1, 3}) {
    Connection& connection = scenario.ConnectionOf(clients[full]);
    ASSERT_EQ(connection.Send(much.data(), much.size()), kAccepted);
    EXPECT_EQ(connection.Send("y", 1), kBacklogFull);
  }
  scenario.ConnectionOf(clients[4]).Close();

  std::vector<ConnectionPtr> to = All(scenario);
  EXPECT_EQ(BytesBroadcast("news").SendToEach(to), 2U);
  ASSERT_EQ(to.size(), 2U);
  for (const ConnectionPtr& connection : to) {
    EXPECT_TRUE(connection.get() == &scenario.ConnectionOf(clients[1]) ||
                connection.get() == &scenario.ConnectionOf(clients[3]));
  }
  EXPECT_EQ(scenario.stats().broadcasts_skipped, 2U);
  EXPECT_EQ(scenario.stats().sends_refused, 2U);
  EXPECT_EQ(scenario.stats().send_backlog, 2 * much.size() + 2 * 4);
  scenario.StepAll();
  EXPECT_EQ(scenario.stats().send_backlog, 2 * (much.size() - setup.window));
  EXPECT_EQ(clients[0]->Receive(100), "news");
  EXPECT_EQ(clients[2]->Receive(100), "news");
  EXPECT_EQ(scenario.ReceiveAll(clients[4]), "");
  for (const ConnectionPtr& connection : to) connection->Abort();
  to.clear();
  scenario.StepAll();
  EXPECT_EQ(scenario.Of(clients[1]).closed, CloseReason::kLocalAbort);
  EXPECT_EQ(scenario.stats().send_backlog, 0U);
  EXPECT_EQ(scenario.stats().broadcasts_skipped, 2U)
      << "a counter that forgets those who have gone";
}

// Many bytes exist once, however many connections they are for, and until the last of them is done.
TEST_F(BroadcastTest, ManyBytesAreCopiedOnceAndFewForEach) {
  for (const std::size_t size : {std::size_t{1024}, std::size_t{1025}, std::size_t{100'000}}) {
    Scenario::Setup setup;
    setup.window = 100;
    Scenario scenario(setup);
    std::vector<Scenario::Client> clients;
    for (int i = 0; i < 10; ++i) clients.push_back(scenario.Connect());
    std::vector<ConnectionPtr> to = All(scenario);
    const std::size_t live = LiveAllocations();
    EXPECT_EQ(BytesBroadcast(std::string(size, 'x')).SendToEach(to), 10U);
    EXPECT_TRUE(to.empty());
    // A record for each, and the bytes with their count.
    EXPECT_EQ(LiveAllocations() - live, size <= 1024 ? 10U : 12U) << size;
    for (const auto& client : clients) {
      scenario.StepAll();
      scenario.ConnectionOf(client).Close();
      EXPECT_EQ(scenario.ReceiveAll(client), std::string(size, 'x'));
    }
  }
}

TEST_F(BroadcastTest, WithoutMemoryItThrowsAndLeavesNothing) {
  struct Failing final : FailingMemory::Source {
    std::size_t good = 0;
    bool Fails(bool) override { return good-- == 0; }
  };
  for (const std::size_t size : {std::size_t{10}, std::size_t{100'000}}) {
    std::size_t accepted = 0;
    bool threw = true;
    for (std::size_t good = 0; threw; ++good) {
      ASSERT_LT(good, 100U);
      Scenario scenario({});
      std::vector<Scenario::Client> clients;
      for (int i = 0; i < 3; ++i) clients.push_back(scenario.Connect());
      std::vector<ConnectionPtr> to = All(scenario);
      const std::string data(size, 'x');
      Failing failing;
      failing.good = good;
      const FailingMemory memory(&failing);
      try {
        const FailingMemory::Scope armed(true);
        EXPECT_EQ(BytesBroadcast(data).SendToEach(to), 3U);
        threw = false;
      } catch (const std::bad_alloc&) {
      }
      to.clear();
      std::size_t got = 0;
      scenario.StepAll();
      for (const auto& client : clients) {
        scenario.ConnectionOf(client).Close();
        const std::string received = scenario.ReceiveAll(client);
        EXPECT_TRUE(received.empty() || received == data);
        got += received.empty() ? 0 : 1;
      }
      EXPECT_GE(got, accepted) << "more memory, and fewer have it";
      accepted = got;
    }
    EXPECT_EQ(accepted, 3U);
  }
}

TEST_F(BroadcastTest, DuplicatesAndNullsAreRemoved) {
  Scenario scenario({});
  const auto one = scenario.Connect();
  const auto other = scenario.Connect();
  std::vector<ConnectionPtr> to(3);
  for (const auto* client : {&one, &other, &one, &one, &other}) {
    to.emplace_back(&scenario.ConnectionOf(*client));
  }
  RemoveDuplicates(to);
  EXPECT_EQ(BytesBroadcast("x").SendToEach(to), 2U);
  scenario.StepAll();
  EXPECT_EQ(one->Receive(100), "x");
  EXPECT_EQ(other->Receive(100), "x");
}

}  // namespace
}  // namespace iocp::sim
