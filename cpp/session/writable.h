// When OnConnectionWritable is due.
#pragma once

#include <atomic>
#include <cstddef>

#include "iocp/options.h"

namespace iocp {

// Follows the charge of a backlog: see Outbound::charge. The hook is due once it was above the high
// mark, or a send was refused, and it has fallen to the low one; until it is called, or the same
// happens again.
class Writable {
 public:
  // Before anything else. Without it, or if `wanted` is false, nothing is ever due.
  void Begin(bool wanted, const Options& options) {
    wanted_ = wanted;
    low_mark_ = options.write_low_water;
    high_mark_ = options.write_high_water;
  }

  // A send was accepted, which the charge contains already. Under the inbox's mutex.
  template <typename Charge>
  void NoteRise(Charge charge) {
    if (wanted_ && charge() > high_mark_) above_.store(true, std::memory_order_release);
  }

  // A send was refused, which stops a producer as the high mark does. Under the inbox's mutex.
  void NoteRefusal() {
    if (wanted_) above_.store(true, std::memory_order_release);
  }

  // The rest is the owner's.

  // Bytes have left. Other threads may accept sends meanwhile.
  template <typename Charge>
  void NoteFall(Charge charge) {
    if (!above_.load(std::memory_order_relaxed) || charge() > low_mark_) return;
    // A rise that the second look does not see sets it again.
    above_.exchange(false, std::memory_order_acq_rel);
    if (charge() > low_mark_) {
      above_.store(true, std::memory_order_release);
    } else {
      fallen_ = true;
    }
  }
  [[nodiscard]] bool due() const { return fallen_ && !above_.load(std::memory_order_acquire); }
  // The hook is called now.
  void Take() { fallen_ = false; }

 private:
  std::size_t low_mark_ = 0;
  std::size_t high_mark_ = 0;
  bool wanted_ = false;
  // True exactly when the charge was above the high mark or a send was refused, and no NoteFall has
  // seen it at the low one twice since.
  std::atomic<bool> above_{false};
  // True exactly when a NoteFall has seen it there twice, and the hook has not been called since.
  bool fallen_ = false;
};

}  // namespace iocp
