#include "base/timer_wheel.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <vector>

namespace iocp {
namespace {

using TimePoint = TimerWheel::TimePoint;
using std::chrono::hours;
using std::chrono::milliseconds;

const TimePoint kStart{hours(1000)};

std::vector<TimerNode*> AdvanceTo(TimerWheel& wheel, TimePoint now) {
  std::vector<TimerNode*> expired;
  wheel.Advance(now, [&](TimerNode& node) { expired.push_back(&node); });
  return expired;
}

TEST(TimerWheel, NothingArmedNeverExpires) {
  TimerWheel wheel(kStart);
  EXPECT_EQ(wheel.Next(), TimePoint::max());
  EXPECT_TRUE(AdvanceTo(wheel, kStart + hours(100)).empty());
}

TEST(TimerWheel, NeverEarlyAndAtMostATickLate) {
  for (const auto delay : {milliseconds(1), milliseconds(10), milliseconds(635), milliseconds(640),
                           milliseconds(641), milliseconds(40'960), milliseconds(3'000'000)}) {
    TimerWheel wheel(kStart);
    TimerNode node;
    wheel.Arm(node, kStart + delay);
    EXPECT_LE(wheel.Next(), kStart + delay + TimerWheel::kTick);
    EXPECT_TRUE(AdvanceTo(wheel, kStart + delay - milliseconds(1)).empty()) << delay.count();
    EXPECT_TRUE(node.armed());
    EXPECT_EQ(AdvanceTo(wheel, kStart + delay + TimerWheel::kTick).size(), 1U) << delay.count();
    EXPECT_FALSE(node.armed());
  }
}

TEST(TimerWheel, ADeadlineInThePastExpiresAtTheNextTick) {
  TimerWheel wheel(kStart);
  AdvanceTo(wheel, kStart + hours(1));
  TimerNode node;
  wheel.Arm(node, kStart);
  EXPECT_EQ(AdvanceTo(wheel, kStart + hours(1) + TimerWheel::kTick).size(), 1U);
}

TEST(TimerWheel, ArmingAgainMovesAndDisarmingForgets) {
  TimerWheel wheel(kStart);
  TimerNode moved;
  TimerNode forgotten;
  wheel.Arm(moved, kStart + milliseconds(50));
  wheel.Arm(forgotten, kStart + milliseconds(50));
  wheel.Arm(moved, kStart + milliseconds(500));
  wheel.Disarm(forgotten);
  wheel.Disarm(forgotten);
  EXPECT_TRUE(AdvanceTo(wheel, kStart + milliseconds(400)).empty());
  EXPECT_EQ(AdvanceTo(wheel, kStart + milliseconds(510)), std::vector{&moved});
  EXPECT_EQ(wheel.Next(), TimePoint::max());
}

TEST(TimerWheel, BeyondTheHorizonIsNotLost) {
  TimerWheel wheel(kStart);
  TimerNode node;
  wheel.Arm(node, kStart + hours(24 * 10));
  EXPECT_TRUE(AdvanceTo(wheel, kStart + hours(24 * 10) - milliseconds(20)).empty());
  EXPECT_EQ(AdvanceTo(wheel, kStart + hours(24 * 10) + milliseconds(20)).size(), 1U);
}

// Against a plain sorted map, in steps of every size.
TEST(TimerWheel, AgreesWithASortedMap) {
  std::mt19937 random(7);
  TimerWheel wheel(kStart);
  std::vector<TimerNode> nodes(500);
  std::map<TimerNode*, TimePoint> armed;
  TimePoint now = kStart;
  for (int step = 0; step < 5000; ++step) {
    for (int i = 0; i < 3; ++i) {
      TimerNode& node = nodes[random() % nodes.size()];
      if (random() % 4 == 0) {
        wheel.Disarm(node);
        armed.erase(&node);
      } else {
        const auto range = std::vector{20, 700, 50'000, 4'000'000}[random() % 4];
        const TimePoint deadline = now + milliseconds(random() % static_cast<unsigned>(range));
        wheel.Arm(node, deadline);
        armed[&node] = deadline;
      }
    }
    now += milliseconds(random() % std::vector{5U, 100U, 3000U, 60'000U}[random() % 4]);
    for (TimerNode* node : AdvanceTo(wheel, now)) {
      ASSERT_EQ(armed.count(node), 1U);
      ASSERT_LE(armed[node], now) << "early";
      armed.erase(node);
    }
    for (const auto& [node, deadline] : armed) {
      ASSERT_TRUE(node->armed());
      ASSERT_GT(deadline + 2 * TimerWheel::kTick, now) << "late";
      ASSERT_LE(wheel.Next(), deadline + TimerWheel::kTick);
    }
  }
}

// The cost of a tick must not depend on how many timers are armed for other times.
TEST(TimerWheel, TicksTouchOnlyWhatIsDue) {
  TimerWheel wheel(kStart);
  std::vector<TimerNode> nodes(100'000);
  for (TimerNode& node : nodes) wheel.Arm(node, kStart + hours(20));
  TimerNode soon;
  for (int i = 1; i <= 10'000; ++i) {
    wheel.Arm(soon, kStart + i * TimerWheel::kTick);
    ASSERT_EQ(AdvanceTo(wheel, kStart + i * TimerWheel::kTick).size(), 1U);
  }
  // 10,000 ticks that each walked 100,000 timers would not end within the test's timeout.
  for (TimerNode& node : nodes) wheel.Disarm(node);
}

}  // namespace
}  // namespace iocp
