#include "session/owner.h"

#include <utility>

namespace iocp {
namespace {

thread_local Owner* current_owner = nullptr;

}  // namespace

Owner::Owner(CompletionPort& port, std::size_t shard_index, const Options& options,
             Handler& handler, unsigned wanted_hooks)
    : now_(port.Now()),
      port_(port),
      shard_index_(shard_index),
      shared_(port.shared()),
      options_(options),
      hooks_(handler, wanted_hooks, counters_) {
  arrivals_.reserve(kBatchCompletions);
}

Owner* Owner::Current() { return current_owner; }

SendMemory* Owner::CurrentSendMemory() {
  return current_owner != nullptr ? &current_owner->send_memory_ : nullptr;
}

Owner::TurnScope::TurnScope(Owner* owner) : before_(std::exchange(current_owner, owner)) {}
Owner::TurnScope::~TurnScope() { current_owner = before_; }

bool Ownership::Notify() {
  std::uintptr_t owner = word_.load(std::memory_order_relaxed);
  while (owner != 0) {
    if (word_.compare_exchange_weak(owner, owner | kLookAgain, std::memory_order_acq_rel)) {
      return true;
    }
  }
  return false;
}

bool Ownership::Release(const Owner& owner) {
  std::uintptr_t word = Word(owner);
  if (word_.compare_exchange_strong(word, 0, std::memory_order_acq_rel)) return true;
  // Read and written in one: what was left before any notice that this takes away is seen.
  word_.exchange(Word(owner), std::memory_order_acq_rel);
  return false;
}

}  // namespace iocp
