// libFuzzer on the framings: the bytes that it makes up are the options of one, a stream, and the
// parts in which it is received. `make fuzz` runs it.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "framing_differential.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  iocp::sim::Choices choices(data, size);
  const auto result = iocp::testing::CompareFramings(choices);
  if (!result.failure.empty()) {
    std::fprintf(stderr, "a rule was broken: %s\n", result.failure.c_str());
    std::abort();
  }
  return 0;
}
