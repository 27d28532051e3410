// Counting without a lock and without an atomic read-modify-write.
#pragma once

#include <atomic>
#include <cstdint>

namespace iocp {

// A counter that one thread at a time writes and any thread reads.
class Counter {
 public:
  void Add(std::uint64_t change) {
    value_.store(value_.load(std::memory_order_relaxed) + change, std::memory_order_release);
  }
  void Subtract(std::uint64_t change) { Add(~change + 1); }
  [[nodiscard]] std::uint64_t value() const { return value_.load(std::memory_order_acquire); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

}  // namespace iocp
