// Runs simulations: many, with fresh seeds, or one again. Ends with 0 when no rule was broken, and
// else with the command that shows the run which broke it.
//
//   simulate --runs 1000          or --seconds 60; from a seed of its own, or from --seed on
//   simulate --seed 4711 --log    that one, with all its events
//   simulate --bug 3 --runs 1000  on ports with a mistake; the list is in network.h
//   simulate --bytes FILE --log   a run whose choices are the bytes of a file: one of the fuzzer's
//   simulate --seed 4711 --nth-failure 3      without faults but one, the third that could happen;
//   simulate --seed 4711 --nth-allocation 3   or without memory at the engine's third allocation
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "simulation.h"

namespace {

// One run whose choices are the bytes of a file. Returns the exit code.
int SimulateFile(const std::string& bytes_file, const iocp::sim::RunSettings& settings) {
  std::ifstream file(bytes_file, std::ios::binary);
  const std::vector<char> bytes(std::istreambuf_iterator<char>(file), {});
  if (!file) {
    std::fprintf(stderr, "cannot read %s\n", bytes_file.c_str());
    return 2;
  }
  iocp::sim::Choices choices(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  const iocp::sim::RunResult result = iocp::sim::Simulate(choices, settings);
  std::printf("trace %016llx, %llu turns, %llu connections, %llu hooks: %s\n",
              static_cast<unsigned long long>(result.trace),
              static_cast<unsigned long long>(result.turns),
              static_cast<unsigned long long>(result.connections),
              static_cast<unsigned long long>(result.hooks),
              result.failure.empty() ? "no rule was broken" : result.failure.c_str());
  return result.failure.empty() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  using iocp::sim::Bug;
  using iocp::sim::RunSettings;
  using Clock = std::chrono::steady_clock;

  RunSettings settings;
  std::string bytes_file;
  std::uint64_t seed = 0;
  bool has_seed = false;
  std::uint64_t runs = 0;
  double seconds = 0;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--log") {
      settings.log = true;
      continue;
    }
    if (i + 1 == argc) {
      std::fprintf(
          stderr,
          "usage: %s [--seed N | --bytes FILE] [--runs N | --seconds S] [--bug N] [--log]\n",
          argv[0]);
      return 2;
    }
    const char* value = argv[++i];
    if (name == "--seed") seed = std::strtoull(value, nullptr, 10), has_seed = true;
    if (name == "--bytes") bytes_file = value;
    if (name == "--runs") runs = std::strtoull(value, nullptr, 10);
    if (name == "--seconds") seconds = std::strtod(value, nullptr);
    if (name == "--bug") settings.bug = static_cast<Bug>(std::atoi(value));
    if (name == "--nth-failure") settings.nth_failure = std::strtoull(value, nullptr, 10);
    if (name == "--nth-allocation") settings.nth_allocation = std::strtoull(value, nullptr, 10);
  }
  if (!bytes_file.empty()) return SimulateFile(bytes_file, settings);
  if (!has_seed) seed = std::random_device{}();
  if (runs == 0 && seconds == 0) runs = has_seed ? 1 : 1000;

  const Clock::time_point begin = Clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - begin).count(); };
  std::uint64_t turns = 0;
  std::uint64_t hooks = 0;
  std::uint64_t connections = 0;
  std::uint64_t done = 0;
  for (; (runs == 0 || done < runs) && (seconds == 0 || elapsed() < seconds); ++done) {
    iocp::sim::Choices choices(seed + done);
    const iocp::sim::RunResult result = iocp::sim::Simulate(choices, settings);
    turns += result.turns;
    hooks += result.hooks;
    connections += result.connections;
    if (settings.log) std::printf("trace %016llx\n", static_cast<unsigned long long>(result.trace));
    if (result.failure.empty()) continue;
    std::printf("run %llu broke a rule: %s\nsee it again: %s --seed %llu --log\n",
                static_cast<unsigned long long>(done + 1), result.failure.c_str(), argv[0],
                static_cast<unsigned long long>(seed + done));
    return 1;
  }
  std::printf(
      "%llu runs, seeds from %llu on, %.1f s: %.0f a minute; %llu turns, %llu connections, "
      "%llu hooks; no rule was broken\n",
      static_cast<unsigned long long>(done), static_cast<unsigned long long>(seed), elapsed(),
      static_cast<double>(done) / elapsed() * 60, static_cast<unsigned long long>(turns),
      static_cast<unsigned long long>(connections), static_cast<unsigned long long>(hooks));
  return 0;
}
