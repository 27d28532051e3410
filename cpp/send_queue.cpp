#include "send_queue.h"

#include <algorithm>
#include <cassert>
#include <cstdlib>
#include <cstring>
#include <new>

namespace iocp {

SendItem* SendItem::Copy(const std::string_view* pieces, std::size_t count) noexcept {
  std::size_t size = 0;
  for (std::size_t i = 0; i < count; ++i) size += pieces[i].size();
  void* memory = std::malloc(sizeof(SendItem) + size);
  if (memory == nullptr) return nullptr;
  auto* item = new (memory) SendItem;
  char* end = reinterpret_cast<char*>(item + 1);
  item->data = end;
  item->size = size;
  for (std::size_t i = 0; i < count; ++i) {
    if (pieces[i].empty()) continue;
    std::memcpy(end, pieces[i].data(), pieces[i].size());
    end += pieces[i].size();
  }
  return item;
}

SendItem* SendItem::Share(const SharedBytes& bytes, bool release_in_batch) noexcept {
  void* memory = std::malloc(sizeof(SendItem));
  if (memory == nullptr) return nullptr;
  auto* item = new (memory) SendItem;
  item->data = static_cast<const char*>(bytes.data);
  item->size = bytes.size;
  item->release = bytes.release;
  item->owner = bytes.owner;
  item->release_in_batch = release_in_batch;
  return item;
}

void SendItem::Destroy(SendItem* item) noexcept {
  if (item->release != nullptr) item->release(item->owner);
  std::free(item);
}

SendQueue::~SendQueue() {
  while (SendItem* item = Pop()) SendItem::Destroy(item);
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

std::size_t SendQueue::Gather(Piece* pieces) const {
  std::size_t count = 0;
  std::size_t bytes = 0;
  std::size_t skip = sent_;
  for (const SendItem* item = first_; item != nullptr; item = item->next) {
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
