// The deadlines of many connections, at a cost per tick that does not grow with their number.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>

namespace iocp {

// Embedded in the object that has the deadline. In at most one wheel at a time.
class TimerNode {
 public:
  [[nodiscard]] bool armed() const { return previous_ != nullptr; }
  // The tick it is armed for. Only while armed.
  [[nodiscard]] std::uint64_t tick() const { return tick_; }

 private:
  friend class TimerWheel;
  TimerNode* next_ = nullptr;
  TimerNode** previous_ = nullptr;  // what points to this node; null when not armed
  std::uint64_t tick_ = 0;
  std::uint16_t slot_ = 0;
};

// A hierarchical timing wheel after Varghese and Lauck (1987), as in many kernels. It has four
// levels of 64 slots, and a slot of one level spans the whole level below. A timer moves down as
// its time comes near, so arming, disarming and each tick take constant time. Not thread-safe.
class TimerWheel {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  static constexpr std::chrono::milliseconds kTick{10};

  explicit TimerWheel(TimePoint start, std::chrono::milliseconds tick = kTick)
      : start_(start), tick_(tick) {}

  // Arms `node` for the first tick at or after `deadline`: never early, at most one tick late. A
  // node that is armed already is moved.
  void Arm(TimerNode& node, TimePoint deadline);
  void Disarm(TimerNode& node);

  // No node can expire before this; TimePoint::max() when none is armed.
  [[nodiscard]] TimePoint Next() const;

  // Disarms every node whose time has come at `now` and calls `expired(node)` for it.
  template <typename Expired>
  void Advance(TimePoint now, Expired expired) {
    const std::uint64_t target = TickAtOrBefore(now);
    for (std::uint64_t next = NextTick(); next <= target; next = NextTick()) {
      current_ = next;
      TimerNode* due = TakeDue();
      while (due != nullptr) {
        TimerNode& node = *due;
        due = node.next_;
        node.next_ = nullptr;
        expired(node);
      }
    }
    if (target > current_) current_ = target;
  }

 private:
  static constexpr unsigned kLevels = 4;
  static constexpr unsigned kSlotBits = 6;
  static constexpr std::uint64_t kSlots = 1U << kSlotBits;

  [[nodiscard]] std::uint64_t TickAtOrBefore(TimePoint time) const;
  [[nodiscard]] std::uint64_t NextTick() const;
  // Unlinks the nodes that expire at current_, and moves down those whose time comes near.
  TimerNode* TakeDue();
  void Link(TimerNode& node);
  void Unlink(TimerNode& node);

  const TimePoint start_;
  const std::chrono::milliseconds tick_;
  std::uint64_t current_ = 0;                      // ticks since start_ that have been handled
  std::array<std::uint64_t, kLevels> occupied_{};  // a bit per slot that is not empty
  std::array<TimerNode*, kLevels * kSlots> slots_{};
};

}  // namespace iocp
