// The way into a worker from other threads: any thread pushes, the worker takes.
#pragma once

#include <atomic>

#include "port/completion_port.h"

namespace iocp {

// Pushing takes no lock and no memory, and cannot fail (R5). The worker is the only consumer.
class PostingQueue {
 public:
  // Any thread. True when the worker sleeps or is about to: the caller must wake it.
  bool Push(Posting& posting) {
    Posting* head = head_.load(std::memory_order_relaxed);
    do {
      posting.next = head;
    } while (!head_.compare_exchange_weak(head, &posting, std::memory_order_seq_cst));
    // Either this load sees the worker's `sleeping_`, or the worker, which looks at `head_` after
    // it has set the flag, sees this posting. Both are sequentially consistent, so no wake-up is
    // lost.
    return sleeping_.load(std::memory_order_seq_cst) &&
           sleeping_.exchange(false, std::memory_order_seq_cst);
  }

  // The worker, before it sleeps. False when there is something to take: it must not sleep then.
  bool PrepareToSleep() {
    sleeping_.store(true, std::memory_order_seq_cst);
    if (head_.load(std::memory_order_seq_cst) == nullptr) return true;
    Awake();
    return false;
  }
  void Awake() { sleeping_.store(false, std::memory_order_relaxed); }

  // The worker: the oldest posting, or null. Postings of one thread come in the order it made them.
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
  // True exactly when the worker sleeps or is about to, and nobody has undertaken to wake it.
  std::atomic<bool> sleeping_{false};
  alignas(64) Posting* taken_ = nullptr;  // the worker's: oldest first
};

}  // namespace iocp
