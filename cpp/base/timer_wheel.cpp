#include "base/timer_wheel.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

namespace iocp {

std::uint64_t TimerWheel::TickAtOrBefore(TimePoint time) const {
  if (time <= start_) return 0;
  return static_cast<std::uint64_t>((time - start_) / tick_);
}

void TimerWheel::Arm(TimerNode& node, TimePoint deadline) {
  if (node.armed()) Unlink(node);
  std::uint64_t tick = TickAtOrBefore(deadline);
  if (start_ + tick_ * tick < deadline) ++tick;
  node.tick_ = std::max(tick, current_ + 1);
  Link(node);
}

void TimerWheel::Disarm(TimerNode& node) {
  if (node.armed()) Unlink(node);
}

TimerWheel::TimePoint TimerWheel::Next() const {
  const std::uint64_t tick = NextTick();
  if (tick == std::numeric_limits<std::uint64_t>::max()) return TimePoint::max();
  return start_ + tick_ * tick;
}

std::uint64_t TimerWheel::NextTick() const {
  std::uint64_t next = std::numeric_limits<std::uint64_t>::max();
  for (unsigned level = 0; level < kLevels; ++level) {
    if (occupied_[level] == 0) continue;
    const std::uint64_t position = current_ >> (kSlotBits * level);
    // Distance to the next occupied slot, 1 to 64: the slot we stand on was emptied when we came.
    const auto rotated = std::rotr(occupied_[level], static_cast<int>((position + 1) % kSlots));
    const auto distance = static_cast<std::uint64_t>(std::countr_zero(rotated)) + 1;
    next = std::min(next, (position + distance) << (kSlotBits * level));
  }
  return next;
}

TimerNode* TimerWheel::TakeDue() {
  TimerNode* due = nullptr;
  for (unsigned level = kLevels; level-- > 0;) {
    const std::uint64_t span = std::uint64_t{1} << (kSlotBits * level);
    if (current_ % span != 0) continue;
    const std::uint64_t position = (current_ >> (kSlotBits * level)) % kSlots;
    // The slot is taken as a whole: unlinking each node would touch its neighbours, of which none
    // is in the cache.
    TimerNode* node =
        std::exchange(slots_[static_cast<std::size_t>(level * kSlots + position)], nullptr);
    occupied_[level] &= ~(std::uint64_t{1} << position);
    while (node != nullptr) {
      TimerNode* const next = node->next_;
      if (node->tick_ <= current_) {
        node->previous_ = nullptr;
        node->next_ = due;
        due = node;
      } else {
        Link(*node);
      }
      node = next;
    }
  }
  return due;
}

void TimerWheel::Link(TimerNode& node) {
  const std::uint64_t horizon = (std::uint64_t{1} << (kSlotBits * kLevels)) - 1;
  // A node beyond the horizon waits in the last slot and is looked at again there.
  const std::uint64_t tick = std::min(node.tick_, current_ + horizon);
  unsigned level = 0;
  while ((tick - current_) >> (kSlotBits * (level + 1)) != 0) ++level;
  const std::uint64_t position = (tick >> (kSlotBits * level)) % kSlots;
  const auto slot = static_cast<std::size_t>(level * kSlots + position);
  node.slot_ = static_cast<std::uint16_t>(slot);
  node.next_ = slots_[slot];
  node.previous_ = &slots_[slot];
  if (node.next_ != nullptr) node.next_->previous_ = &node.next_;
  slots_[slot] = &node;
  occupied_[level] |= std::uint64_t{1} << position;
}

void TimerWheel::Unlink(TimerNode& node) {
  *node.previous_ = node.next_;
  if (node.next_ != nullptr) node.next_->previous_ = node.previous_;
  node.next_ = nullptr;
  node.previous_ = nullptr;
  if (slots_[node.slot_] == nullptr) {
    occupied_[node.slot_ / kSlots] &= ~(std::uint64_t{1} << (node.slot_ % kSlots));
  }
}

}  // namespace iocp
