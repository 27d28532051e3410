// libFuzzer on the simulation: the bytes that it makes up are a run's choices. `make fuzz` runs it;
// tools/fuzz.sh says how a run that broke a rule is seen again.
//
// IOCP_FUZZ_BUG=3 fuzzes ports with a mistake, which must be found; the list is in network.h.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "simulation.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const iocp::sim::RunSettings settings = [] {
    iocp::sim::RunSettings from_environment;
    if (const char* bug = std::getenv("IOCP_FUZZ_BUG"); bug != nullptr) {
      from_environment.bug = static_cast<iocp::sim::Bug>(std::atoi(bug));
    }
    return from_environment;
  }();
  iocp::sim::Choices choices(data, size);
  const iocp::sim::RunResult result = iocp::sim::Simulate(choices, settings);
  if (!result.failure.empty()) {
    std::fprintf(stderr, "a rule was broken: %s\n", result.failure.c_str());
    std::abort();
  }
  return 0;
}
