#include "stream/send_queue.h"

#include <cassert>
#include <cstring>

namespace iocp {

SendQueue::~SendQueue() {
  while (SendItem* item = Pop()) SendItem::Destroy(item, nullptr);
}

bool SendQueue::Pack(const std::string_view* pieces, std::size_t count, std::size_t size) {
  if (items_.empty() || size > items_.last().room()) return false;
  SendItem& last = items_.last();
  char* end = reinterpret_cast<char*>(&last + 1) + last.size;
  for (std::size_t i = 0; i < count; ++i) {
    if (pieces[i].empty()) continue;
    std::memcpy(end, pieces[i].data(), pieces[i].size());
    end += pieces[i].size();
  }
  last.size += size;
  last.overhead -= static_cast<std::uint32_t>(size);
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

SendQueue::Place SendQueue::Forward(const Place& place, std::size_t bytes) const {
  Place next = place.item == nullptr ? Place{first(), sent_} : place;
  while (bytes > next.item->size - next.offset) {
    bytes -= next.item->size - next.offset;
    next = {next.item->next, 0};
  }
  next.offset += bytes;
  return next;
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
