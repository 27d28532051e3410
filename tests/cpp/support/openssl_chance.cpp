#include "support/openssl_chance.h"

#include <openssl/rand.h>

#include <stdexcept>

#include "sim/choices.h"

namespace iocp::testing {
namespace {

std::uint64_t state = 0;

int Fill(unsigned char* to, int size) {
  sim::Choices choices(state++);
  for (int i = 0; i < size; ++i) to[i] = static_cast<unsigned char>(choices.Below(256));
  return 1;
}

}  // namespace

void SeedOpenSsl(std::uint64_t seed) {
  static const RAND_METHOD method = {nullptr, &Fill, nullptr, nullptr, &Fill, [] { return 1; }};
  state = seed;
// A provider would do without these functions, but needs a file of its own.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  if (RAND_get_rand_method() == &method) return;
  if (RAND_set_rand_method(&method) != 1) throw std::runtime_error("OpenSSL keeps its randomness");
#pragma GCC diagnostic pop
}

}  // namespace iocp::testing
