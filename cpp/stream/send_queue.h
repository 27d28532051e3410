// The sends of one connection, in order, each until its last byte is with the system.
#pragma once

#include <cstddef>

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
  // Adds the bytes of `item` to the last send if that has room for them, so that both are one send.
  // They are copied behind the bytes that are there, which the system may have already. Otherwise
  // returns false and changes nothing.
  bool Pack(const SendItem& item);
  // Null when empty.
  SendItem* Pop();
  // Moves all of `later` behind the sends that are here.
  void Append(SendQueue& later);

  // Fills `pieces` with the bytes to send next, up to kMaxPieces pieces and kMaxGather bytes.
  // Returns how many pieces; 0 when there are only empty sends.
  std::size_t Gather(Piece* pieces) const;
  // The system has taken `bytes` of what Gather gave. Moves the sends that are complete, empty ones
  // at the front included, to `complete`. Returns how many.
  std::size_t Advance(std::size_t bytes, SendQueue& complete);

  // Large enough that the system call costs little, small enough that progress shows.
  static constexpr std::size_t kMaxGather = 1024 * 1024;

 private:
  Fifo<SendItem, &SendItem::next> items_;
  std::size_t sent_ = 0;  // bytes of the first item that are out
};

}  // namespace iocp
