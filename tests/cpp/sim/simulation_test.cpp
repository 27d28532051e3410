// The server on the simulated port: many runs, each failure in turn, and the test of these tests.
// A run that breaks a rule is reported with the command that shows it again.
#include "simulation.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

namespace iocp::sim {
namespace {

RunResult RunOf(std::uint64_t seed, const RunSettings& settings = {}) {
  Choices choices(seed);
  return Simulate(choices, settings);
}

std::string Again(std::uint64_t seed, const std::string& more = "") {
  return "see it again: build/dev/tests/cpp/sim/simulate --log --seed " + std::to_string(seed) +
         more;
}

TEST(Simulation, FixedSeeds) {
  for (std::uint64_t seed = 1; seed <= 5000; ++seed) {
    const RunResult result = RunOf(seed);
    ASSERT_EQ(result.failure, "") << Again(seed);
  }
}

TEST(Simulation, FreshSeeds) {
  const std::uint64_t first = std::random_device{}();
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  std::uint64_t seed = first;
  for (; std::chrono::steady_clock::now() < end; ++seed) {
    const RunResult result = RunOf(seed);
    ASSERT_EQ(result.failure, "") << Again(seed);
  }
  // At least 1,000 a minute, on any machine that is worth the name.
  EXPECT_GE(seed - first, 170U);
}

TEST(Simulation, TheSameSeedMakesTheSameRun) {
  std::uint64_t different = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    const RunResult once = RunOf(seed);
    const RunResult again = RunOf(seed);
    ASSERT_EQ(once.trace, again.trace) << Again(seed);
    if (once.trace != RunOf(seed + 1000).trace) ++different;
  }
  // Some are over before anything has happened.
  EXPECT_GE(different, 150U) << "the hash does not see what happens";
}

TEST(Simulation, WithoutFaultsNoConnectionIsBroken) {
  RunSettings settings;
  settings.faults = false;
  for (std::uint64_t seed = 1; seed <= 1000; ++seed) {
    ASSERT_EQ(RunOf(seed, settings).failure, "") << Again(seed);
  }
}

// One conversation after the other: in each, the first thing that can fail fails, then the second,
// until nothing is left that could.
TEST(Simulation, EachFailureInTurn) {
  std::uint64_t runs = 0;
  for (std::uint64_t seed = 1; seed <= 15; ++seed) {
    RunSettings settings;
    RunResult result;
    do {
      ++settings.nth_failure;
      ++runs;
      result = RunOf(seed, settings);
      ASSERT_EQ(result.failure, "")
          << Again(seed, " --nth-failure " + std::to_string(settings.nth_failure));
    } while (settings.nth_failure <= result.could_fail);
  }
  EXPECT_GE(runs, 1000U);
}

TEST(Simulation, EachAllocationInTurn) {
  std::uint64_t runs = 0;
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    RunSettings settings;
    RunResult result;
    do {
      ++settings.nth_allocation;
      ++runs;
      result = RunOf(seed, settings);
      ASSERT_EQ(result.failure, "")
          << Again(seed, " --nth-allocation " + std::to_string(settings.nth_allocation));
    } while (settings.nth_allocation <= result.allocations);
  }
  EXPECT_GE(runs, 1000U);
}

// The inputs that the fuzzer has found worth keeping; `make fuzz-corpus` renews them.
TEST(Simulation, CorpusOfTheFuzzer) {
  std::uint64_t runs = 0;
  std::uint64_t hooks = 0;
  for (const auto& entry : std::filesystem::directory_iterator(IOCP_FUZZ_CORPUS)) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::vector<char> bytes(std::istreambuf_iterator<char>(file), {});
    ASSERT_TRUE(file) << entry.path();
    Choices choices(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    const RunResult result = Simulate(choices);
    ASSERT_EQ(result.failure, "") << "see it again: build/dev/tests/cpp/sim/simulate --log --bytes "
                                  << entry.path();
    ++runs;
    hooks += result.hooks;
  }
  EXPECT_GE(runs, 10U);
  EXPECT_GE(hooks, 500U) << "the corpus no longer drives what it was made for";
}

// The test of the tests: a port that makes a mistake once in a while is found out. By an oracle, or
// by a crash, as each canary runs in a process of its own.
class CanaryTest : public ::testing::TestWithParam<Bug> {};

TEST_P(CanaryTest, IsFound) {
  const auto search = [] {
    RunSettings settings;
    settings.bug = GetParam();
    for (std::uint64_t seed = 1; seed <= 2000; ++seed) {
      if (!RunOf(seed, settings).failure.empty()) std::_Exit(1);
    }
    std::_Exit(0);
  };
  EXPECT_EXIT(search(), [](int status) { return status != 0; }, "");
}

INSTANTIATE_TEST_SUITE_P(Ports, CanaryTest, ::testing::ValuesIn(kAllBugs), [](const auto& bug) {
  return std::to_string(static_cast<int>(bug.param));
});

}  // namespace
}  // namespace iocp::sim
