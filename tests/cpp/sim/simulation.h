// One simulated run: the engine's own code on simulated ports, clients of every kind, hooks that do
// what hooks may do, and the oracles that watch.
//
// A run has two parts. In the first, chance decides what moves next: a worker's turn (also inside
// another worker's hook), a client, a call from outside, the clock; and the faults strike. In the
// second there are no faults, and everything has to end within a bound.
#pragma once

#include <cstdint>
#include <string>

#include "choices.h"
#include "network.h"

namespace iocp::sim {

struct RunSettings {
  Bug bug = Bug::kNone;
  bool log = false;  // writes all events to stderr
  bool faults = true;
  // Instead of faults by chance only one failure, the nth that could happen, 1 being the first; or
  // the nth allocation that the engine makes.
  std::uint64_t nth_failure = 0;
  std::uint64_t nth_allocation = 0;
};

struct RunResult {
  std::string failure;      // empty: no rule was broken
  std::uint64_t trace = 0;  // a hash of all that happened
  std::uint64_t turns = 0;
  std::uint64_t hooks = 0;
  std::uint64_t connections = 0;  // that were reported to hooks
  std::uint64_t could_fail = 0;   // how often something could have failed
  std::uint64_t allocations = 0;  // by the engine, in its workers' turns
};

RunResult Simulate(Choices& choices, const RunSettings& settings = {});

}  // namespace iocp::sim
