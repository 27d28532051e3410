// What happens to clients that cannot be served: there is no room, or the system stops the port. In
// a forced order of events.
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
