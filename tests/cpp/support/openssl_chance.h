// OpenSSL's random bytes from a seed, so that a run can be repeated.
#pragma once

#include <cstdint>

namespace iocp::testing {

// From now on OpenSSL's random bytes follow from `seed`. For programs of one thread.
void SeedOpenSsl(std::uint64_t seed);

}  // namespace iocp::testing
