#include "stream/send_queue.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace iocp {

SendQueue::~SendQueue() {
  while (SendItem* item = Pop()) SendItem::Destroy(item, nullptr);
}

void SendQueue::Push(SendItem* item) {
  item->next = nullptr;
  if (first_ == nullptr) {
    first_ = item;
  } else {
    last_->next = item;
  }
  last_ = item;
}

bool SendQueue::Pack(const SendItem& item) {
  if (first_ == nullptr || item.size > last_->room()) return false;
  std::memcpy(reinterpret_cast<char*>(last_ + 1) + last_->size, item.data, item.size);
  last_->size += item.size;
  last_->overhead -= static_cast<std::uint32_t>(item.size);
  return true;
}

SendItem* SendQueue::Pop() {
  SendItem* item = first_;
  if (item == nullptr) return nullptr;
  first_ = item->next;
  item->next = nullptr;
  sent_ = 0;
  return item;
}

void SendQueue::Append(SendQueue& later) {
  if (later.first_ == nullptr) return;
  assert(later.sent_ == 0 && "a send that has begun cannot change its place");
  if (first_ == nullptr) {
    first_ = later.first_;
  } else {
    last_->next = later.first_;
  }
  last_ = later.last_;
  later.first_ = nullptr;
}

SendQueue::Place SendQueue::Forward(const Place& place, std::size_t bytes) const {
  Place next = place.item == nullptr ? Place{first_, sent_} : place;
  while (bytes > next.item->size - next.offset) {
    bytes -= next.item->size - next.offset;
    next = {next.item->next, 0};
  }
  next.offset += bytes;
  return next;
}

std::size_t SendQueue::Advance(std::size_t bytes, SendQueue& complete) {
  std::size_t ended = 0;
  while (first_ != nullptr && bytes >= first_->size - sent_) {
    bytes -= first_->size - sent_;
    complete.Push(Pop());
    ++ended;
  }
  assert((first_ != nullptr || bytes == 0) && "the system took more than it was given");
  sent_ += bytes;
  return ended;
}

}  // namespace iocp
