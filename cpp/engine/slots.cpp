#include "engine/slots.h"

#include "engine/engine.h"
#include "engine/listener.h"

namespace iocp {

bool Slots::Take() {
  int taken = taken_.load(std::memory_order_relaxed);
  do {
    if (taken >= most_) return false;
  } while (!taken_.compare_exchange_weak(taken, taken + 1, std::memory_order_seq_cst));
  return true;
}

// Every listener that waits looks, as one worker may be in a hook for long.
void Slots::Release() {
  taken_.fetch_sub(1, std::memory_order_seq_cst);
  if (waiting_.load(std::memory_order_seq_cst) != 0) engine_.WakeAllShards();
}

// Either this sees the slot that comes free meanwhile, or Release sees who waits.
bool Slots::Enter(Socket& listener) {
  if (Take()) return true;
  auto& socket = static_cast<ListeningSocket&>(listener);
  if (!socket.waits_for_slot.exchange(true)) waiting_.fetch_add(1, std::memory_order_seq_cst);
  if (!Take()) return false;
  LetTryAgain(socket);
  return true;
}

bool Slots::LetTryAgain(ListeningSocket& listener) {
  if (!listener.waits_for_slot.exchange(false)) return false;
  waiting_.fetch_sub(1, std::memory_order_relaxed);
  return true;
}

}  // namespace iocp
