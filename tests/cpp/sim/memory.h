// The heap under test: counts what lives, and fails when a test says so. A program that links
// memory.cpp has its operators new and delete replaced.
#pragma once

#include <cstddef>
#include <cstdint>

namespace iocp::sim {

// Allocations of the whole program that were not freed.
std::size_t LiveAllocations();
// The bytes that the heap has given for `memory`, which it allocated.
std::size_t AllocatedBytes(const void* memory);

// While one lives, allocations inside `Armed` scopes fail when `fails` says so.
class FailingMemory {
 public:
  class Source {
   public:
    // Asked for each allocation; `can_throw`: the caller expects memory or an exception.
    virtual bool Fails(bool can_throw) = 0;

   protected:
    ~Source() = default;
  };
  explicit FailingMemory(Source* source);
  FailingMemory(const FailingMemory&) = delete;
  FailingMemory& operator=(const FailingMemory&) = delete;
  ~FailingMemory();

  // Says until it ends whether allocations may fail: the engine's may, the test's own may not.
  class Scope {
   public:
    explicit Scope(bool armed);
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    ~Scope();

   private:
    const bool before_;
  };
  [[nodiscard]] static bool armed();
};

}  // namespace iocp::sim
