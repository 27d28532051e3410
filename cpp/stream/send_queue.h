// The sends of one connection, in order, each until its last byte is with the system.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>

#include "base/fifo.h"
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

  [[nodiscard]] bool empty() const { return items_.empty(); }
  // The oldest, which leads to the others. Null when empty.
  [[nodiscard]] const SendItem* first() const { return items_.first(); }
  void Push(SendItem* item) { items_.Push(*item); }
  // Adds the pieces, `size` bytes in all, to the last send if that has room for them, so that both
  // are one send. They are copied behind the bytes that are there, which the system may have
  // already. Otherwise returns false and changes nothing.
  bool Pack(const std::string_view* pieces, std::size_t count, std::size_t size);
  // Null when empty.
  SendItem* Pop();
  // Moves all of `later` behind the sends that are here.
  void Append(SendQueue& later);

  // A place between two bytes of the queue. Good until the byte before it has left; a new one
  // stands before the first byte that is to be sent.
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
  // The system has taken `bytes` of what Gather gave. Moves the sends that are complete, empty ones
  // at the front included, to `complete`. Returns how many.
  std::size_t Advance(std::size_t bytes, SendQueue& complete);

  // Large enough that the system call costs little, small enough that progress shows.
  static constexpr std::size_t kMaxGather = 1024 * 1024;

 private:
  Fifo<SendItem, &SendItem::next> items_;
  std::size_t sent_ = 0;  // bytes of the first item that are out
};

// Here, so that it is a part of the one function that every message comes through.
inline std::size_t SendQueue::Gather(Piece* pieces, const Place& place, std::size_t most) const {
  std::size_t count = 0;
  std::size_t bytes = 0;
  std::size_t skip = place.item == nullptr ? sent_ : place.offset;
  for (const SendItem* item = place.item == nullptr ? first() : place.item; item != nullptr;
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
