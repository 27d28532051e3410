// The way into a worker from other threads: a stack to push on from anywhere, a list to take from.
#pragma once

#include <atomic>

#include "port/completion_port.h"

namespace iocp {

// Wait-free to push, no allocation, cannot fail (R5). One consumer, the worker.
class PostingQueue {
 public:
  // Any thread. True when the worker sleeps, or is about to: the caller must wake it.
  bool Push(Posting& posting) {
    Posting* head = head_.load(std::memory_order_relaxed);
    do {
      posting.next = head;
    } while (!head_.compare_exchange_weak(head, &posting, std::memory_order_seq_cst));
    // Either this load sees the worker's `sleeping_`, or the worker's look at `head_` after it set
    // the flag sees this posting: both orders are sequentially consistent, so no wake-up is lost.
    return sleeping_.load(std::memory_order_seq_cst) &&
           sleeping_.exchange(false, std::memory_order_seq_cst);
  }

  // The worker, before it sleeps. False when there is something to take: it must not sleep.
  bool PrepareToSleep() {
    sleeping_.store(true, std::memory_order_seq_cst);
    if (head_.load(std::memory_order_seq_cst) == nullptr) return true;
    Awake();
    return false;
  }
  void Awake() { sleeping_.store(false, std::memory_order_relaxed); }

  // The worker: the oldest posting, or null. Postings of one thread come in its order.
  Posting* Take() {
    if (taken_ == nullptr) {
      if (head_.load(std::memory_order_relaxed) == nullptr) return nullptr;
      Posting* newest = head_.exchange(nullptr, std::memory_order_acquire);
      while (newest != nullptr) {
        Posting* older = newest->next;
        newest->next = taken_;
        taken_ = newest;
        newest = older;
      }
    }
    Posting* posting = taken_;
    taken_ = posting->next;
    posting->next = nullptr;
    return posting;
  }
  [[nodiscard]] bool empty() const {
    return taken_ == nullptr && head_.load(std::memory_order_relaxed) == nullptr;
  }

 private:
  alignas(64) std::atomic<Posting*> head_{nullptr};
  // True exactly when the worker sleeps or is about to, and nobody has taken it on to wake it.
  std::atomic<bool> sleeping_{false};
  alignas(64) Posting* taken_ = nullptr;  // the worker's: oldest first
};

}  // namespace iocp
