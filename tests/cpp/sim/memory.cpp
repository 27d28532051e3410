#include "memory.h"

#include <malloc.h>

#include <cstdlib>
#include <new>

namespace iocp::sim {
namespace {

std::size_t live = 0;
FailingMemory::Source* source = nullptr;
bool armed_now = false;

void* Allocate(std::size_t size, bool can_throw) {
  if (armed_now && source != nullptr) {
    // Allocations of the source itself do not fail.
    const FailingMemory::Scope unarmed(false);
    if (source->Fails(can_throw)) return nullptr;
  }
  void* memory = std::malloc(size == 0 ? 1 : size);
  if (memory != nullptr) ++live;
  return memory;
}

void Free(void* memory) {
  if (memory != nullptr) --live;
  std::free(memory);
}

}  // namespace

std::size_t LiveAllocations() { return live; }

std::size_t AllocatedBytes(const void* memory) {
#ifdef _WIN32
  return ::_msize(const_cast<void*>(memory));
#else
  return ::malloc_usable_size(const_cast<void*>(memory));
#endif
}

FailingMemory::FailingMemory(Source* to_ask) { source = to_ask; }
FailingMemory::~FailingMemory() { source = nullptr; }

FailingMemory::Scope::Scope(bool arm) : before_(armed_now) { armed_now = arm; }
FailingMemory::Scope::~Scope() { armed_now = before_; }
bool FailingMemory::armed() { return armed_now; }

}  // namespace iocp::sim

// One thread: the simulation has no other.
void* operator new(std::size_t size) {
  void* memory = iocp::sim::Allocate(size, true);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void* operator new[](std::size_t size) { return operator new(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return iocp::sim::Allocate(size, false);
}
void* operator new[](std::size_t size, const std::nothrow_t& tag) noexcept {
  return operator new(size, tag);
}
void operator delete(void* memory) noexcept { iocp::sim::Free(memory); }
void operator delete[](void* memory) noexcept { iocp::sim::Free(memory); }
void operator delete(void* memory, std::size_t) noexcept { iocp::sim::Free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { iocp::sim::Free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { iocp::sim::Free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { iocp::sim::Free(memory); }
