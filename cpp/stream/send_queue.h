// What is to be sent on one connection: sends in order, each told of when its last byte is out.
#pragma once

#include <algorithm>
#include <cstddef>

#include "stream/piece.h"
#include "stream/send_item.h"

namespace iocp {

// A list of sends, oldest first. Not thread-safe. Owns its items.
class SendQueue {
 public:
  SendQueue() = default;
  SendQueue(const SendQueue&) = delete;
  SendQueue& operator=(const SendQueue&) = delete;
  ~SendQueue();

  [[nodiscard]] bool empty() const { return first_ == nullptr; }
  // The oldest, which leads to the others; null when empty.
  [[nodiscard]] const SendItem* first() const { return first_; }
  void Push(SendItem* item);
  // Adds the bytes of `item` to the last send, where that has room for them: one send of both. They
  // are copied, also while the system has what was there before. Otherwise returns false and
  // changes nothing.
  bool Pack(const SendItem& item);
  // Null when empty.
  SendItem* Pop();
  // Takes over all of `later`, behind what is here.
  void Append(SendQueue& later);

  // A place between two bytes of the queue. Good until the byte before it has left; a new one stands
  // before the first byte that is to be sent.
  struct Place {
    const SendItem* item = nullptr;
    std::size_t offset = 0;
  };

  // The bytes to send next, up to kMaxPieces pieces and kMaxGather bytes. How many pieces; 0 when
  // there are only empty sends.
  std::size_t Gather(Piece* pieces) const { return Gather(pieces, {}, kMaxGather); }
  // The same for `most` bytes behind `place`.
  std::size_t Gather(Piece* pieces, const Place& place, std::size_t most) const;
  // The place `bytes` behind `place`; so many are there.
  [[nodiscard]] Place Forward(const Place& place, std::size_t bytes) const;
  // `bytes` of what Gather gave are out: moves the sends that are complete, empty ones
  // at the front included, to `complete`. How many.
  std::size_t Advance(std::size_t bytes, SendQueue& complete);

  // Large enough that the system call does not count, small enough that progress is seen.
  static constexpr std::size_t kMaxGather = 1024 * 1024;

 private:
  SendItem* first_ = nullptr;
  SendItem* last_ = nullptr;
  std::size_t sent_ = 0;  // of first_
};

// Here, so that it is a part of the one function that every message comes through.
inline std::size_t SendQueue::Gather(Piece* pieces, const Place& place, std::size_t most) const {
  std::size_t count = 0;
  std::size_t bytes = 0;
  std::size_t skip = place.item == nullptr ? sent_ : place.offset;
  for (const SendItem* item = place.item == nullptr ? first_ : place.item; item != nullptr;
       item = item->next) {
    const std::size_t size = std::min(item->size - skip, most - bytes);
    if (size > 0) pieces[count++] = {item->data + skip, size};
    bytes += size;
    skip = 0;
    if (count == kMaxPieces || bytes == most) break;
  }
  return count;
}

}  // namespace iocp
