// A queue of objects, first in, first out, linked through the objects themselves.
#pragma once

namespace iocp {

// Needs no memory, owns nothing, and is not thread-safe. An object may be in several queues, each
// with a member of its own as `kNext`, but only once in each. With `kListed`, that member is true
// exactly when the object is in the queue, and pushing it again changes nothing.
template <class T, T* T::* kNext, bool T::* kListed = nullptr>
class Fifo {
 public:
  Fifo() = default;
  Fifo(const Fifo&) = delete;
  Fifo& operator=(const Fifo&) = delete;

  [[nodiscard]] bool empty() const { return first_ == nullptr; }
  // The oldest, which leads to the others; null when empty.
  [[nodiscard]] T* first() const { return first_; }
  // The newest. Only when not empty.
  [[nodiscard]] T& last() const { return *last_; }

  void Push(T& item) {
    if constexpr (kListed != nullptr) {
      if (item.*kListed) return;
      item.*kListed = true;
    }
    item.*kNext = nullptr;
    (first_ == nullptr ? first_ : last_->*kNext) = &item;
    last_ = &item;
  }
  // Null when empty.
  T* Pop() {
    T* const item = first_;
    if (item == nullptr) return nullptr;
    first_ = item->*kNext;
    item->*kNext = nullptr;
    if constexpr (kListed != nullptr) item->*kListed = false;
    return item;
  }
  // Moves all of `later` behind what is here.
  void Append(Fifo& later) {
    if (later.empty()) return;
    (first_ == nullptr ? first_ : last_->*kNext) = later.first_;
    last_ = later.last_;
    later.first_ = nullptr;
  }

 private:
  T* first_ = nullptr;
  T* last_ = nullptr;  // of the queue, when it is not empty
};

}  // namespace iocp
