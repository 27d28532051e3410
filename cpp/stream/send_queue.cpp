#include "stream/send_queue.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace iocp {

SendQueue::~SendQueue() {
  while (SendItem* item = Pop()) SendItem::Destroy(item, nullptr);
}

bool SendQueue::Pack(const SendItem& item) {
  if (items_.empty() || item.size > items_.last().room()) return false;
  SendItem& last = items_.last();
  std::memcpy(reinterpret_cast<char*>(&last + 1) + last.size, item.data, item.size);
  last.size += item.size;
  last.overhead -= static_cast<std::uint32_t>(item.size);
  return true;
}

SendItem* SendQueue::Pop() {
  sent_ = 0;
  return items_.Pop();
}

void SendQueue::Append(SendQueue& later) {
  assert(later.sent_ == 0 && "a send that has begun cannot change its place");
  items_.Append(later.items_);
}

std::size_t SendQueue::Gather(Piece* pieces) const {
  std::size_t count = 0;
  std::size_t bytes = 0;
  std::size_t skip = sent_;
  for (const SendItem* item = first(); item != nullptr; item = item->next) {
    const std::size_t size = std::min(item->size - skip, kMaxGather - bytes);
    if (size > 0) pieces[count++] = {item->data + skip, size};
    bytes += size;
    skip = 0;
    if (count == kMaxPieces || bytes == kMaxGather) break;
  }
  return count;
}

std::size_t SendQueue::Advance(std::size_t bytes, SendQueue& complete) {
  std::size_t ended = 0;
  while (!empty() && bytes >= first()->size - sent_) {
    bytes -= first()->size - sent_;
    complete.Push(Pop());
    ++ended;
  }
  assert((!empty() || bytes == 0) && "the system took more than it was given");
  sent_ += bytes;
  return ended;
}

}  // namespace iocp
