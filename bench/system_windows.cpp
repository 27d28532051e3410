#include <windows.h>
// After it.
#include <bcrypt.h>

#include <array>
#include <cstdio>
#include <cstdlib>

#include "system.h"

namespace bench {

bool Prepare() { return true; }

void WaitForEnd() {
  while (std::getchar() != EOF) {
  }
}

void Hash(const unsigned char* data, std::size_t size) {
  static const BCRYPT_ALG_HANDLE algorithm = [] {
    BCRYPT_ALG_HANDLE handle = nullptr;
    return BCryptOpenAlgorithmProvider(&handle, BCRYPT_SHA256_ALGORITHM, nullptr, 0) == 0 ? handle
                                                                                          : nullptr;
  }();
  std::array<unsigned char, 32> digest{};
  // BCryptHash only reads, whatever its declaration says.
  if (BCryptHash(algorithm, nullptr, 0, const_cast<unsigned char*>(data), static_cast<ULONG>(size),
                 digest.data(), static_cast<ULONG>(digest.size())) != 0) {
    std::abort();
  }
}

}  // namespace bench
