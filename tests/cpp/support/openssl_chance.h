// OpenSSL's randomness from a number, so that a run can be repeated.
#pragma once

#include <cstdint>

namespace iocp::testing {

// From now on all that OpenSSL takes for chance follows from `seed`. For programs of one thread.
void SeedOpenSsl(std::uint64_t seed);

}  // namespace iocp::testing
