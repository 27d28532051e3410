#include "support/no_memory.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace iocp::testing {
namespace {

std::atomic<bool> empty{false};

}  // namespace

NoMemory::NoMemory() { empty = true; }
void NoMemory::End() { empty = false; }

}  // namespace iocp::testing

void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return iocp::testing::empty ? nullptr : std::malloc(size == 0 ? 1 : size);
}
void* operator new(std::size_t size) {
  void* const memory = operator new(size, std::nothrow);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
