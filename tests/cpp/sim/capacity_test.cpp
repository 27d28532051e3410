// Clients that cannot be served, in a forced order of events: there is no room, or the system stops
// the port.
#include <algorithm>
#include <cerrno>
#include <string>
#include <vector>

#include "scenario.h"
#include "sim_port.h"

namespace iocp::sim {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class CapacityTest : public ScenarioTest {
 protected:
  static Scenario::Setup Full(AtCapacity at_capacity) {
    Scenario::Setup setup;
    setup.options.max_connections = 2;
    setup.options.at_capacity = at_capacity;
    setup.options.first_data_timeout.reset();
    return setup;
  }
  static std::vector<Scenario::Client> Dial(Scenario& scenario, int count) {
    std::vector<Scenario::Client> clients;
    for (int i = 0; i < count; ++i) clients.push_back(scenario.Dial());
    scenario.StepAll();
    return clients;
  }
  static bool Says(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  }
};

TEST_F(CapacityTest, RefusedNewcomersAreReportedOnceAMinuteWithTheirNumber) {
  Scenario scenario(Full(AtCapacity::kRefuse));
  const auto& warnings = scenario.handler().warnings;
  const auto served = Dial(scenario, 2);
  EXPECT_TRUE(warnings.empty());

  Dial(scenario, 3);
  ASSERT_EQ(warnings.size(), 1U);
  EXPECT_TRUE(Says(warnings[0], "refused, 3: max")) << warnings[0];
  EXPECT_TRUE(Says(warnings[0], "max_connections (2)")) << warnings[0];

  Dial(scenario, 4);
  scenario.PassTime(seconds(30));
  Dial(scenario, 1);
  scenario.PassTime(seconds(30) - milliseconds(1));
  EXPECT_EQ(warnings.size(), 1U) << "a second one within a minute";
  scenario.PassTime(milliseconds(1));
  ASSERT_EQ(warnings.size(), 2U);
  EXPECT_TRUE(Says(warnings[1], "refused, 5 since")) << warnings[1];

  scenario.PassTime(seconds(600));
  EXPECT_EQ(warnings.size(), 2U) << "nobody was refused";
  Dial(scenario, 1);
  ASSERT_EQ(warnings.size(), 3U);
  EXPECT_TRUE(Says(warnings[2], "refused, 1 since")) << warnings[2];
  EXPECT_EQ(scenario.stats().refused, 9U);
}

// A shortage that is over while the server is full.
TEST_F(CapacityTest, NewcomersAreRefusedAgainOnceThereAreDescriptors) {
  Scenario scenario(Full(AtCapacity::kRefuse));
  const auto served = Dial(scenario, 2);
  scenario.network().exhausted = true;
  const auto newcomer = scenario.Dial();
  scenario.StepAll();
  EXPECT_EQ(scenario.stats().accept_errors, 1U);
  scenario.network().exhausted = false;
  scenario.PassTime(seconds(1));
  EXPECT_EQ(scenario.stats().refused, 1U);
  const auto another = Dial(scenario, 1);
  EXPECT_EQ(scenario.stats().refused, 2U) << "accepting is paused";
}

TEST_F(CapacityTest, AServerThatStopsDoesNotWaitToReportWhomItRefused) {
  Scenario scenario(Full(AtCapacity::kRefuse));
  const auto served = Dial(scenario, 2);
  Dial(scenario, 1);
  Dial(scenario, 1);
  scenario.RequestStop(seconds(1));
  scenario.PassTime(seconds(120));  // a busy loop fails
  EXPECT_TRUE(scenario.all_left());
  EXPECT_EQ(scenario.handler().warnings.size(), 1U);
}

TEST_F(CapacityTest, NewcomersThatWaitStayWithTheNetwork) {
  Scenario scenario(Full(AtCapacity::kWait));
  auto clients = Dial(scenario, 50);
  EXPECT_EQ(scenario.network().open_connections(), 2U);
  EXPECT_EQ(scenario.stats().accepted, 2U);
  for (std::size_t i = 0; i < clients.size(); ++i) {
    ASSERT_TRUE(scenario.Knows(clients[i])) << "served out of turn";
    clients[i]->Close();
    scenario.StepAll();
    EXPECT_LE(scenario.network().open_connections(), 2U);
  }
  EXPECT_EQ(scenario.stats().established, 50U);
  EXPECT_EQ(scenario.stats().refused, 0U);
  EXPECT_TRUE(scenario.handler().warnings.empty());
}

// ---- Several workers, each with a port that accepts.

Scenario::Setup ForWorkers(Scenario::Setup setup, int workers) {
  setup.workers = workers;
  return setup;
}

TEST_F(CapacityTest, ClientsAreAcceptedWhileHooksKeepAllWorkersButOne) {
  Scenario scenario(ForWorkers({}, 4));
  std::vector<Scenario::Client> clients;
  for (int i = 0; i < 4; ++i) clients.push_back(scenario.Connect());
  const TimePoint begin = scenario.network().now();
  std::vector<Scenario::Client> newcomers;
  std::size_t kept = 0;
  // Each hook lets the next worker run into its own; in the innermost the last one is alone.
  scenario.handler().on_read = [&](Connection&, Buffer&) {
    if (++kept < 3) {
      for (std::size_t worker = 0; worker < 4 && kept < 3; ++worker) {
        if (!scenario.in_turn(worker)) scenario.Step(worker);
      }
      return;
    }
    if (!newcomers.empty()) return;
    std::size_t free = 0;
    while (scenario.in_turn(free)) ++free;
    for (int i = 0; i < 20; ++i) newcomers.push_back(scenario.Dial());
    scenario.Step(free);
    scenario.Step(free);
    EXPECT_EQ(scenario.stats().accepted, 24U);
    EXPECT_EQ(scenario.network().now(), begin) << "they had to wait";
    EXPECT_EQ(scenario.stats().established, 4U + 20U / 4U) << "of those that are its own";
  };
  for (const auto& client : clients) client->Send("x");
  scenario.StepAll();
  EXPECT_EQ(newcomers.size(), 20U);
  EXPECT_EQ(scenario.stats().established, 24U);
}

TEST_F(CapacityTest, NewcomersGoWhereTheFewestAre) {
  Scenario scenario(ForWorkers({}, 4));
  std::vector<Scenario::Client> clients = Dial(scenario, 400);
  const auto spread = [&] {
    std::vector<std::size_t> counts;
    for (std::size_t i = 0; i < 4; ++i) {
      counts.push_back(scenario.engine().worker(i).shard().connection_count());
    }
    const auto [fewest, most] = std::minmax_element(counts.begin(), counts.end());
    return *most - *fewest;
  };
  EXPECT_LE(spread(), 1U);
  // Some go, most of them of one shard.
  for (std::size_t i = 0; i < clients.size(); i += i % 4 == 0 ? 4 : 7) clients[i]->Close();
  scenario.PassTime(seconds(1));
  EXPECT_GT(spread(), 1U);
  const auto more = Dial(scenario, 400);
  EXPECT_LE(spread(), 1U);
}

TEST_F(CapacityTest, NewcomersThatWaitStayWithTheNetworkHoweverManyWorkersAccept) {
  Scenario scenario(ForWorkers(Full(AtCapacity::kWait), 4));
  auto clients = Dial(scenario, 50);
  for (std::size_t i = 0; i < clients.size(); ++i) {
    EXPECT_EQ(scenario.network().open_connections(), std::min<std::size_t>(2, 50 - i));
    ASSERT_TRUE(scenario.Knows(clients[i])) << "served out of turn";
    clients[i]->Close();
    scenario.StepAll();
  }
  EXPECT_EQ(scenario.stats().accepted, 50U);
  EXPECT_EQ(scenario.stats().established, 50U);
  EXPECT_EQ(scenario.stats().refused, 0U);
}

// The worker that has freed it may be in a hook for long.
TEST_F(CapacityTest, ASlotThatComesFreeIsForAnyWorkerThatIsFree) {
  Scenario::Setup setup = ForWorkers(Full(AtCapacity::kWait), 2);
  setup.options.max_connections = 1;
  Scenario scenario(setup);
  auto served = scenario.Connect();
  const auto waits = scenario.Dial();
  scenario.StepAll();
  EXPECT_EQ(scenario.stats().accepted, 1U);
  bool served_meanwhile = false;
  scenario.handler().on_closing = [&](Connection&, CloseReason) {
    scenario.StepAll();  // the other one
    served_meanwhile = scenario.Knows(waits);
  };
  served->Close();
  scenario.StepAll();
  EXPECT_TRUE(served_meanwhile);
  scenario.handler().on_closing = nullptr;
}

TEST_F(CapacityTest, AShortageIsReportedOnceHoweverManyWorkersMeetIt) {
  Scenario scenario(ForWorkers({}, 4));
  scenario.network().exhausted = true;
  const auto clients = Dial(scenario, 4);
  EXPECT_EQ(scenario.stats().accept_errors, 4U);
  EXPECT_EQ(scenario.stats().pending_accepts, 0U);
  scenario.PassTime(seconds(30));
  EXPECT_LE(scenario.stats().accept_errors, 4U * 34U) << "more than once a second each";
  EXPECT_EQ(scenario.handler().warnings.size(), 1U);
  scenario.network().exhausted = false;
  scenario.PassTime(seconds(1));
  EXPECT_EQ(scenario.stats().established, 4U);
}

TEST_F(CapacityTest, RefusedNewcomersAreReportedTogetherHoweverManyWorkersRefuse) {
  Scenario scenario(ForWorkers(Full(AtCapacity::kRefuse), 4));
  const auto served = Dial(scenario, 2);
  for (int i = 0; i < 20; ++i) Dial(scenario, 1);
  EXPECT_EQ(scenario.stats().refused, 20U);
  EXPECT_EQ(scenario.handler().warnings.size(), 1U);
  scenario.PassTime(seconds(60));
  ASSERT_EQ(scenario.handler().warnings.size(), 2U);
  EXPECT_TRUE(Says(scenario.handler().warnings[1], "refused, 19 since"));
}

// The handle is the engine's: it stays open until the last port has ended.
TEST_F(CapacityTest, AListenerIsClosedOnceTheLastPortHasEndedAccepting) {
  for (const bool shared : {false, true}) {
    Scenario::Setup setup;
    setup.workers = 3;
    setup.shared = shared;
    setup.listeners = 2;
    Scenario scenario(setup);
    const std::size_t ports = scenario.network().open_ports;
    EXPECT_EQ(scenario.network().open_descriptors(), ports + 2);
    // Everything of the second listener is late.
    Listener& late = *scenario.engine().listeners()[1];
    scenario.LetCome([&](const Completion& completion) {
      return completion.operation != Operation::kAccept ||
             &Listener::Of(*completion.socket) != &late;
    });
    scenario.RequestStop(seconds(1));
    scenario.PassTime(seconds(10));
    EXPECT_FALSE(scenario.all_left());
    EXPECT_EQ(scenario.network().open_descriptors(), ports + 1);
    scenario.LetAllCome();
    scenario.PassTime(seconds(1));
    EXPECT_TRUE(scenario.all_left());
    EXPECT_EQ(scenario.network().open_descriptors(), ports);
  }
}

TEST_F(CapacityTest, AnEngineAcceptsOnTwoListeners) {
  for (const bool shared : {false, true}) {
    Scenario::Setup setup = ForWorkers({}, 3);
    setup.shared = shared;
    setup.listeners = 2;
    Scenario scenario(setup);
    std::vector<Scenario::Client> clients;
    for (std::size_t i = 0; i < 20; ++i) clients.push_back(scenario.Dial(i % 2));
    scenario.StepAll();
    for (std::size_t i = 0; i < 20; ++i) {
      EXPECT_EQ(scenario.ConnectionOf(clients[i]).local_address().port,
                scenario.engine().listeners()[i % 2]->address().port);
    }
    EXPECT_EQ(scenario.stats().accepted, 20U);
  }
}

// A port that cannot begin is tried again, like one that has run out of descriptors.
TEST_F(CapacityTest, AcceptingThatCannotBeginIsTriedAgain) {
  Scenario::Setup setup = ForWorkers({}, 2);
  setup.faults.accept_exhausted = 1;
  Scenario scenario(setup);
  EXPECT_EQ(scenario.stats().accept_errors, 2U);
  EXPECT_EQ(scenario.stats().pending_accepts, 0U);
  const auto client = scenario.Dial();
  scenario.PassTime(seconds(1));
  EXPECT_GT(scenario.stats().accept_errors, 4U);
  EXPECT_EQ(scenario.handler().warnings.size(), 1U);
  scenario.network().faults = {};
  scenario.PassTime(seconds(1));
  EXPECT_TRUE(scenario.Knows(client));
}

// Every port may break, in whatever order, while there is something to report for each connection.
TEST_F(CapacityTest, BrokenPortsAreReportedOnceAndTheirConnectionsEachWithItsError) {
  Scenario::Setup setup;
  setup.workers = 3;
  Scenario scenario(setup);
  const auto clients = Dial(scenario, 6);
  EXPECT_EQ(scenario.stats().established, 6U);
  for (SimPort* port : scenario.network().ports) port->Break();
  scenario.StepAll();
  EXPECT_EQ(scenario.closed(), 6U);
  for (const auto& [id, record] : scenario.handler().records) {
    EXPECT_EQ(record.closed, CloseReason::kError);
    EXPECT_EQ(record.error.code, EIO);
  }
  EXPECT_EQ(scenario.handler().warnings.size(), 1U);
  EXPECT_EQ(scenario.network().open_connections(), 0U);
  scenario.PassTime(seconds(600));  // a busy loop fails
  EXPECT_FALSE(scenario.all_left()) << "only a stop ends a worker";
}

}  // namespace
}  // namespace iocp::sim
