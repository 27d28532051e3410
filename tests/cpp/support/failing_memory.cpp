#include "support/failing_memory.h"

#include <openssl/crypto.h>

#include <cstdlib>
#include <new>

namespace iocp::testing {
namespace {

thread_local long left = -1;  // less than 0: all succeed
thread_local bool all_fail = false;
thread_local bool spares_new = false;  // true exactly when only OpenSSL's functions may fail
thread_local bool has_failed = false;

bool Fails() {
  if (left < 0) return false;
  if (left > 0) {
    --left;
    return false;
  }
  if (!all_fail) left = -1;
  has_failed = true;
  return true;
}

void* Allocate(std::size_t size) { return Fails() ? nullptr : std::malloc(size == 0 ? 1 : size); }

// Before OpenSSL has allocated anything, or it refuses.
const bool replaced =
    CRYPTO_set_mem_functions([](std::size_t size, const char*, int) { return Allocate(size); },
                             [](void* memory, std::size_t size, const char*, int) {
                               return Fails() ? nullptr : std::realloc(memory, size);
                             },
                             [](void* memory, const char*, int) { std::free(memory); }) == 1;

}  // namespace

FailingMemory::FailingMemory(long* count, bool for_good, bool of_openssl) : count_(count) {
  spares_new = of_openssl;
  left = *count;
  all_fail = for_good;
}
FailingMemory::~FailingMemory() {
  *count_ = left;
  left = -1;
  spares_new = false;
}
bool FailingMemory::failed() { return has_failed; }
void FailingMemory::Forget() { has_failed = false; }
bool FailingMemory::replaces() { return replaced; }

}  // namespace iocp::testing

void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  if (iocp::testing::spares_new) return std::malloc(size == 0 ? 1 : size);
  return iocp::testing::Allocate(size);
}
void* operator new(std::size_t size) {
  void* const memory = operator new(size, std::nothrow);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
