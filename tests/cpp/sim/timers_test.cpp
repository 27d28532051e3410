// Callbacks and timers, in one order of events each.
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "memory.h"
#include "scenario.h"
#include "session/timer_queue.h"

namespace iocp::sim {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Strings = std::vector<std::string>;

class TimersTest : public ScenarioTest {};

// One worker on a port of its own; two that share one.
std::vector<Scenario::Setup> Setups() {
  std::vector<Scenario::Setup> setups(2);
  setups[1].shared = true;
  setups[1].workers = 2;
  return setups;
}

TEST_F(TimersTest, ATimerIsNeverEarlyAndAtMostATickLate) {
  for (Scenario::Setup setup : Setups()) {
    setup.options.first_data_timeout = std::nullopt;
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    Connection& connection = scenario.ConnectionOf(client);
    for (const Duration delay :
         {Duration(0), Duration(1), Duration(milliseconds(1)), Duration(milliseconds(63)),
          Duration(milliseconds(4096)) + Duration(7), Duration(std::chrono::hours(30))}) {
      const TimePoint deadline = scenario.network().now() + delay;
      TimePoint connections{};
      TimePoint servers{};
      connection.CallLater(delay, [&] { connections = scenario.network().now(); });
      scenario.engine().Schedule(CallKind::kLater, delay, {},
                                 [&] { servers = scenario.network().now(); });
      scenario.PassTime(delay + milliseconds(2));
      for (const TimePoint ran : {connections, servers}) {
        EXPECT_GE(ran, deadline);
        EXPECT_LE(ran, deadline + TimerQueue::kTick);
      }
    }
  }
}

TEST_F(TimersTest, TimersGoOffInTheOrderOfTheirDeadlines) {
  for (const Scenario::Setup& setup : Setups()) {
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    Connection& connection = scenario.ConnectionOf(client);
    Strings order;
    const auto note = [&](const char* name) { return [&order, name] { order.push_back(name); }; };
    connection.CallLater(std::chrono::microseconds(900), note("c"));
    connection.CallLater(std::chrono::microseconds(300), note("a"));
    connection.CallLater(std::chrono::microseconds(500), note("b"));
    connection.CallLater(milliseconds(90), note("e"));
    connection.CallLater(milliseconds(20), note("d"));
    connection.CallLater(std::chrono::microseconds(900), note("c, later"));
    connection.CallSoon(note("soon"));
    // All at once, as after a hook that took long.
    scenario.network().AdvanceTo(scenario.network().now() + milliseconds(100));
    scenario.StepAll();
    EXPECT_EQ(order, (Strings{"soon", "a", "b", "c", "c, later", "d", "e"}));
  }
}

// Between the two reads of one turn, and before what the second one sends.
TEST_F(TimersTest, ACallSoonComesBeforeTheNextHook) {
  for (Scenario::Setup setup : Setups()) {
    setup.reads = 2;
    setup.options.buffer_size = 512;
    Scenario scenario(setup);
    Strings order;
    scenario.handler().on_read = [&](Connection& connection, Buffer&) {
      order.emplace_back("read");
      connection.Send("1", 1);
      connection.CallSoon([&] {
        order.emplace_back("first");
        connection.Send("2", 1);
        connection.CallSoon([&] { order.emplace_back("third"); });
      });
      connection.CallSoon([&] { order.emplace_back("second"); });
    };
    const auto client = scenario.Connect();
    client->Send(std::string(1024, 'x'));
    scenario.StepAll();
    const Strings once = {"read", "first", "second"};
    ASSERT_EQ(order.size(), 8U);
    EXPECT_EQ(Strings(order.begin(), order.begin() + 3), once);
    EXPECT_EQ(client->Receive(100), "1212");
  }
}

TEST_F(TimersTest, AnotherThreadsCallWakesTheWorker) {
  for (const Scenario::Setup& setup : Setups()) {
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    int calls = 0;
    scenario.ConnectionOf(client).CallSoon([&] { ++calls; });
    scenario.StepAll();
    EXPECT_EQ(calls, 1);
    scenario.engine().Schedule(CallKind::kSoon, {}, {}, [&] { ++calls; });
    scenario.StepAll();
    EXPECT_EQ(calls, 2);
  }
}

TEST_F(TimersTest, ACancelledTimerDoesNotRunAndLetsItsCallbackGo) {
  for (const Scenario::Setup& setup : Setups()) {
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    Connection& connection = scenario.ConnectionOf(client);
    const auto kept = std::make_shared<int>(0);
    std::vector<TimerHandle> handles;
    handles.reserve(2000);
    const std::size_t before = LiveAllocations();
    for (int i = 0; i < 1000; ++i) {
      handles.push_back(connection.CallLater(milliseconds(i + 1), [kept] { ++*kept; }));
      handles.push_back(scenario.engine().Schedule(CallKind::kEvery, milliseconds(i + 1),
                                                   milliseconds(i + 1), [kept] { ++*kept; }));
    }
    for (const TimerHandle& handle : handles) {
      EXPECT_FALSE(handle.cancelled());
      EXPECT_TRUE(handle.Cancel());
      EXPECT_TRUE(handle.cancelled());
      EXPECT_FALSE(handle.Cancel()) << "twice";
    }
    EXPECT_EQ(kept.use_count(), 1) << "a callback is kept";
    handles.clear();
    EXPECT_EQ(LiveAllocations(), before);
    scenario.PassTime(seconds(2));
    EXPECT_EQ(*kept, 0);
  }
}

// By a hook or callback that comes just before it.
TEST_F(TimersTest, WhatIsDueCanStillBeCancelled) {
  for (const Scenario::Setup& setup : Setups()) {
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    Connection& connection = scenario.ConnectionOf(client);
    const auto kept = std::make_shared<int>(0);
    std::vector<TimerHandle> handles;
    connection.CallLater(milliseconds(5), [&] {
      for (const TimerHandle& handle : handles) EXPECT_TRUE(handle.Cancel());
      EXPECT_EQ(kept.use_count(), 1);
    });
    handles.push_back(connection.CallLater(milliseconds(5), [kept] { ++*kept; }));
    handles.push_back(connection.CallLater(milliseconds(6), [kept] { ++*kept; }));
    scenario.network().AdvanceTo(scenario.network().now() + milliseconds(10));
    scenario.StepAll();
    EXPECT_EQ(*kept, 0);
  }
}

TEST_F(TimersTest, ARepeatedTimerDoesNotDriftAndLeavesOutWhatItMissed) {
  for (const Scenario::Setup& setup : Setups()) {
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    const TimePoint start = scenario.network().now();
    std::vector<Duration> times;
    TimerHandle handle = scenario.ConnectionOf(client).CallEvery(milliseconds(100), [&] {
      times.push_back(scenario.network().now() - start);
      // It takes its time.
      scenario.network().AdvanceTo(scenario.network().now() +
                                   milliseconds(times.size() == 2 ? 250 : 30));
      if (times.size() != 5) return;
      EXPECT_TRUE(handle.Cancel()) << "it cancels itself";
    });
    scenario.PassTime(seconds(2));
    ASSERT_EQ(times.size(), 5U);
    const Duration expected[] = {milliseconds(100), milliseconds(200), milliseconds(500),
                                 milliseconds(600), milliseconds(700)};
    for (std::size_t i = 0; i < 5; ++i) {
      EXPECT_GE(times[i], expected[i]);
      EXPECT_LE(times[i], expected[i] + TimerQueue::kTick);
    }
    EXPECT_TRUE(handle.cancelled());
  }
}

// The callback of a connection that is closing runs: it may give up waiting, say. Then none does.
TEST_F(TimersTest, NothingRunsAfterClosing) {
  for (const Scenario::Setup& setup : Setups()) {
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    Connection& connection = scenario.ConnectionOf(client);
    const ConnectionPtr pointer(&connection);
    const auto kept = std::make_shared<int>(0);
    bool closing = false;
    int last_words = 0;
    TimerHandle late;
    scenario.handler().on_closing = [&](Connection& ending, CloseReason) {
      closing = true;
      EXPECT_EQ(kept.use_count(), 1) << "callbacks go before the last hooks";
      late = ending.CallSoon([kept] { ++*kept; });
    };
    const TimerHandle later = connection.CallLater(seconds(20), [kept] { ++*kept; });
    const TimerHandle every = connection.CallEvery(seconds(20), [kept] { ++*kept; });
    connection.CallLater(milliseconds(50), [&] {
      EXPECT_FALSE(closing);
      connection.Abort();
      connection.CallSoon([&] {
        EXPECT_FALSE(closing);
        ++last_words;
      });
    });
    connection.Close();
    scenario.PassTime(milliseconds(100));
    EXPECT_TRUE(closing);
    EXPECT_EQ(last_words, 1) << "a callback of CallSoon has not run";
    EXPECT_TRUE(late.cancelled());
    EXPECT_TRUE(later.cancelled());
    EXPECT_TRUE(every.cancelled());
    EXPECT_FALSE(later.Cancel());
    EXPECT_TRUE(pointer->CallLater(milliseconds(1), [kept] { ++*kept; }).cancelled());
    EXPECT_EQ(kept.use_count(), 1);
    scenario.PassTime(seconds(60));
    EXPECT_EQ(*kept, 0);
  }
}

// The server's go on until all connections have ended, on every shard.
TEST_F(TimersTest, TheServersEndWithIt) {
  for (Scenario::Setup setup : Setups()) {
    setup.workers = 2;
    Scenario scenario(setup);
    std::vector<Scenario::Client> clients;
    for (int i = 0; i < 2; ++i) clients.push_back(scenario.Connect());
    const auto kept = std::make_shared<int>(0);
    std::vector<TimerHandle> handles;
    int ticks = 0;
    int last = 0;
    handles.push_back(scenario.engine().Schedule(CallKind::kEvery, milliseconds(100),
                                                 milliseconds(100), [&, kept] { ++ticks; }));
    handles.push_back(
        scenario.engine().Schedule(CallKind::kLater, seconds(60), {}, [kept] { ++*kept; }));
    scenario.handler().on_closing = [&](Connection&, CloseReason) {
      scenario.engine().Schedule(CallKind::kSoon, {}, {}, [&] { ++last; });
    };
    scenario.engine().Schedule(CallKind::kSoon, {}, {}, [&] { ++last; });
    scenario.RequestStop(seconds(1));
    scenario.PassTime(milliseconds(950));
    EXPECT_FALSE(scenario.all_left()) << "the clients have not ended their streams";
    EXPECT_EQ(ticks, 9);
    scenario.PassTime(seconds(1));
    EXPECT_TRUE(scenario.all_left());
    EXPECT_EQ(last, 3) << "a callback of CallSoon has not run";
    EXPECT_EQ(kept.use_count(), 1);
    for (const TimerHandle& handle : handles) EXPECT_TRUE(handle.cancelled());
    EXPECT_TRUE(scenario.engine().Schedule(CallKind::kSoon, {}, {}, [] {}).cancelled());
    EXPECT_EQ(*kept, 0);
  }
}

TEST_F(TimersTest, AnExceptionCostsTheConnectionAndNotTheServer) {
  for (const Scenario::Setup& setup : Setups()) {
    Scenario scenario(setup);
    const auto bad = scenario.Connect();
    const auto good = scenario.Connect();
    scenario.ConnectionOf(bad).CallSoon([] { throw std::runtime_error("of a connection"); });
    scenario.engine().Schedule(CallKind::kSoon, {}, {},
                               [] { throw std::runtime_error("of the server"); });
    scenario.StepAll();
    EXPECT_EQ(scenario.Of(bad).closed, CloseReason::kHookError);
    EXPECT_FALSE(scenario.Of(good).closed);
    EXPECT_EQ(scenario.stats().hook_errors, 2U);
    ASSERT_EQ(scenario.handler().warnings.size(), 1U);
    EXPECT_NE(scenario.handler().warnings[0].find("of the server"), std::string::npos);
  }
}

// One worker of a shared port is in a hook; the other one keeps the time.
TEST_F(TimersTest, AnotherWorkerOfThePortCallsWhatIsDueMeanwhile) {
  Scenario::Setup setup;
  setup.shared = true;
  setup.workers = 2;
  Scenario scenario(setup);
  const auto busy = scenario.Connect();
  const auto other = scenario.Connect();
  int calls = 0;
  int own = 0;
  scenario.handler().on_read = [&](Connection& connection, Buffer&) {
    scenario.ConnectionOf(other).CallLater(milliseconds(10), [&] { ++calls; });
    scenario.engine().Schedule(CallKind::kLater, milliseconds(10), {}, [&] { ++calls; });
    connection.CallLater(milliseconds(10), [&] { ++own; });
    scenario.PassTime(milliseconds(20));
    EXPECT_EQ(calls, 2);
    EXPECT_EQ(own, 0) << "it overlaps a hook of its connection";
  };
  busy->Send("x");
  scenario.StepAll();
  EXPECT_EQ(own, 1);
}

TEST_F(TimersTest, ACallbackOfTheServerDoesNotOverlapAnotherOne) {
  Scenario::Setup setup;
  setup.shared = true;
  setup.workers = 2;
  Scenario scenario(setup);
  Strings order;
  scenario.engine().Schedule(CallKind::kLater, milliseconds(10), {}, [&] {
    order.emplace_back("first begins");
    scenario.PassTime(milliseconds(20));
    order.emplace_back("first ends");
  });
  scenario.engine().Schedule(CallKind::kLater, milliseconds(15), {},
                             [&] { order.emplace_back("second"); });
  scenario.PassTime(milliseconds(100));
  EXPECT_EQ(order, (Strings{"first begins", "first ends", "second"}));
}

// Pausing in a callback counts as in a hook.
TEST_F(TimersTest, NoReadFollowsAPauseInACallback) {
  for (Scenario::Setup setup : Setups()) {
    setup.reads = 2;
    setup.options.buffer_size = 512;
    Scenario scenario(setup);
    int reads = 0;
    scenario.handler().on_read = [&](Connection& connection, Buffer&) {
      if (++reads == 1) connection.CallSoon([&] { connection.PauseReading(); });
    };
    const auto client = scenario.Connect();
    client->Send(std::string(1024, 'x'));
    scenario.StepAll();
    EXPECT_EQ(reads, 1);
    scenario.ConnectionOf(client).ResumeReading();
    scenario.StepAll();
    EXPECT_GT(reads, 1);
  }
}

TEST_F(TimersTest, WithoutMemoryNothingIsScheduled) {
  struct Never final : FailingMemory::Source {
    bool Fails(bool) override { return true; }
  } never;
  const FailingMemory memory(&never);
  Scenario scenario({});
  const auto client = scenario.Connect();
  Connection& connection = scenario.ConnectionOf(client);
  int calls = 0;
  const Callback callback = [&calls] { ++calls; };
  for (int i = 0; i < 3; ++i) {
    Callback copy = callback;
    const FailingMemory::Scope armed(true);
    EXPECT_THROW(connection.CallSoon(std::move(copy)), std::bad_alloc);
  }
  scenario.PassTime(seconds(1));
  EXPECT_EQ(calls, 0);
  connection.CallSoon(callback);
  scenario.StepAll();
  EXPECT_EQ(calls, 1);
}

// An infinite number of seconds.
TEST_F(TimersTest, NeverIsATimeToo) {
  Scenario::Setup setup;
  setup.options.first_data_timeout = std::nullopt;
  Scenario scenario(setup);
  const auto client = scenario.Connect();
  bool called = false;
  const TimerHandle handle =
      scenario.ConnectionOf(client).CallLater(Duration::max(), [&] { called = true; });
  scenario.ConnectionOf(client).CallEvery(Duration::max(), [&] { called = true; });
  scenario.PassTime(std::chrono::hours(24 * 30));
  EXPECT_FALSE(called);
  EXPECT_TRUE(handle.Cancel());
}

}  // namespace
}  // namespace iocp::sim
