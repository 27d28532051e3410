// libFuzzer on the stage of TLS: the bytes that it makes up are what happens to a client's bytes.
// `make fuzz` runs it.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "tls_differential.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  iocp::sim::Choices choices(data, size);
  const auto result = iocp::testing::CompareTls(choices);
  if (!result.failure.empty()) {
    std::fprintf(stderr, "a rule was broken: %s\n", result.failure.c_str());
    std::abort();
  }
  return 0;
}
