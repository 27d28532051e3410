#include "stream/send_item.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "base/heap.h"

namespace iocp {
namespace {

inline SendItem* NewItem(std::size_t payload, std::size_t room, SendMemory* memory) noexcept {
  std::uint8_t size_class = SendMemory::kNoClass;
  std::size_t size = sizeof(SendItem) + std::max(payload, room);
  void* block = nullptr;
  if (memory != nullptr) {
    block = memory->Take(&size, &size_class);
  } else {
    size = SendMemory::BlockSize(size);
    block = AllocateBytes(size);
  }
  if (block == nullptr) return nullptr;
  auto* item = new (block) SendItem;
  item->size = payload;
  item->size_class = size_class;
  item->overhead = static_cast<std::uint32_t>(size - payload);
  return item;
}

}  // namespace

SendMemory::~SendMemory() {
  for (List& list : free_) {
    while (list.first != nullptr) FreeBytes(std::exchange(list.first, list.first->next));
  }
}

// kSizes.size() when it is larger than all.
std::size_t SendMemory::ClassOf(std::size_t size) {
  std::size_t index = 0;
  while (index < kSizes.size() && kSizes[index] < size) ++index;
  return index;
}

std::size_t SendMemory::BlockSize(std::size_t size) {
  const std::size_t index = ClassOf(size);
  return index == kSizes.size() ? size : kSizes[index];
}

void* SendMemory::Take(std::size_t* size, std::uint8_t* size_class) noexcept {
  const std::size_t index = ClassOf(*size);
  if (index == kSizes.size()) {
    *size_class = kNoClass;
    return AllocateBytes(*size);
  }
  *size = kSizes[index];
  *size_class = static_cast<std::uint8_t>(index);
  List& list = free_[index];
  if (list.first == nullptr) return AllocateBytes(kSizes[index]);
  --list.count;
  return std::exchange(list.first, list.first->next);
}

void SendMemory::GiveBack(void* memory, std::uint8_t size_class) noexcept {
  if (size_class == kNoClass || free_[size_class].count == kMostKept[size_class]) {
    FreeBytes(memory);
    return;
  }
  List& list = free_[size_class];
  list.first = new (memory) Free{list.first};
  ++list.count;
}

std::size_t SendMemory::kept() const {
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < kSizes.size(); ++i) bytes += free_[i].count * kSizes[i];
  return bytes;
}

SendItem* SendItem::Copy(const std::string_view* pieces, std::size_t count, std::size_t size,
                         std::size_t room, SendMemory* memory) noexcept {
  SendItem* item = NewItem(size, room, memory);
  if (item == nullptr) return nullptr;
  char* end = reinterpret_cast<char*>(item + 1);
  item->data = end;
  for (std::size_t i = 0; i < count; ++i) {
    if (pieces[i].empty()) continue;
    std::memcpy(end, pieces[i].data(), pieces[i].size());
    end += pieces[i].size();
  }
  return item;
}

SendItem* SendItem::Share(const SharedBytes& bytes, bool release_in_batch,
                          SendMemory* memory) noexcept {
  SendItem* item = NewItem(0, 0, memory);
  if (item == nullptr) return nullptr;
  item->data = static_cast<const char*>(bytes.data);
  item->size = bytes.size;
  item->release = bytes.release;
  item->owner = bytes.owner;
  item->release_in_batch = release_in_batch;
  return item;
}

void SendItem::Destroy(SendItem* item, SendMemory* memory) noexcept {
  if (item->release != nullptr) item->release(item->owner);
  if (memory != nullptr) {
    memory->GiveBack(item, item->size_class);
  } else {
    FreeBytes(item);
  }
}

}  // namespace iocp
