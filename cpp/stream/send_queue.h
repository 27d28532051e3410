// What is to be sent on one connection: sends in order, each told of when its last byte is out.
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
  // The oldest, which leads to the others; null when empty.
  [[nodiscard]] const SendItem* first() const { return items_.first(); }
  void Push(SendItem* item) { items_.Push(*item); }
  // Adds the bytes of `item` to the last send, where that has room for them: one send of both. They
  // are copied, also while the system has what was there before. Otherwise returns false and
  // changes nothing.
  bool Pack(const SendItem& item);
  // Null when empty.
  SendItem* Pop();
  // Takes over all of `later`, behind what is here.
  void Append(SendQueue& later);

  // The bytes to send next, up to kMaxPieces pieces and kMaxGather bytes. How many pieces; 0 when
  // there are only empty sends.
  std::size_t Gather(Piece* pieces) const;
  // `bytes` of what Gather gave are out: moves the sends that are complete, empty ones
  // at the front included, to `complete`. How many.
  std::size_t Advance(std::size_t bytes, SendQueue& complete);

  // Large enough that the system call does not count, small enough that progress is seen.
  static constexpr std::size_t kMaxGather = 1024 * 1024;

 private:
  Fifo<SendItem, &SendItem::next> items_;
  std::size_t sent_ = 0;  // bytes of the first item that are out
};

}  // namespace iocp
