#include "stream/buffer_pool.h"

#include <cstring>
#include <new>

#include "base/heap.h"

namespace iocp {

void Buffer::Release() noexcept {
  block_->DropReference();
  block_ = nullptr;
}

Buffer Buffer::Slice(std::size_t offset, std::size_t size) const {
  block_->AddReference();
  return {block_, data_ + offset, size};
}

std::size_t Buffer::exchangeable() const {
  const bool whole = block_ != nullptr && block_->alone() && data_ == block_->data();
  return whole ? block_->capacity() : 0;
}

BlockMemory Buffer::Exchange(const BlockMemory& memory) {
  const BlockMemory before = block_->Exchange(memory);
  *this = Buffer();
  return before;
}

void Block::DropReference() noexcept {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  if (pool_ != nullptr) {
    pool_->Return(this);
  } else {
    BufferPool::DeleteBlock(this);
  }
}

BufferPool* BufferPool::Create(std::size_t block_size, std::size_t max_free) {
  return new BufferPool(block_size, max_free);
}

void BufferPool::Close() {
  Block* unused = nullptr;
  bool last = false;
  {
    const MutexLock lock(mutex_);
    closed_ = true;
    unused = std::exchange(free_list_, nullptr);
    free_count_.store(0, std::memory_order_relaxed);
    last = in_use_.load(std::memory_order_relaxed) == 0;
  }
  while (unused != nullptr) DeleteBlock(std::exchange(unused, unused->next_free_));
  if (last) delete this;
}

Block* BufferPool::Take() noexcept {
  {
    const MutexLock lock(mutex_);
    if (free_list_ != nullptr) {
      Block* block = std::exchange(free_list_, free_list_->next_free_);
      free_count_.store(free_count_.load(std::memory_order_relaxed) - 1, std::memory_order_relaxed);
      in_use_.store(in_use_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
      block->references_.store(1, std::memory_order_relaxed);
      return block;
    }
  }
  Block* block = NewBlock(this, block_size_);
  if (block == nullptr) return nullptr;
  const MutexLock lock(mutex_);
  in_use_.store(in_use_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  return block;
}

Buffer BufferPool::Compact(Buffer buffer) noexcept {
  if (buffer.block_ == nullptr || buffer.block_->capacity() / 2 <= buffer.size()) return buffer;
  Buffer copy = Copy(buffer.view());
  return copy.size() == 0 ? std::move(buffer) : std::move(copy);
}

Buffer BufferPool::Allocate(std::size_t size, char** memory) noexcept {
  Block* block = NewBlock(nullptr, size);
  if (block == nullptr) return {};
  *memory = block->data();
  return {block, block->data(), size};
}

Buffer BufferPool::Copy(std::string_view bytes) noexcept {
  char* memory = nullptr;
  Buffer copy = Allocate(bytes.size(), &memory);
  if (copy.size() != 0) std::memcpy(memory, bytes.data(), bytes.size());
  return copy;
}

Block* BufferPool::NewBlock(BufferPool* pool, std::size_t capacity) noexcept {
  void* data = AllocateBytes(capacity);
  if (data == nullptr) return nullptr;
  Block* block =
      new (std::nothrow) Block(pool, capacity, {static_cast<char*>(data), data, &FreeBytes});
  if (block == nullptr) FreeBytes(data);
  return block;
}

void BufferPool::DeleteBlock(Block* block) noexcept { delete block; }

void BufferPool::Return(Block* block) noexcept {
  bool keep = false;
  bool last = false;
  {
    const MutexLock lock(mutex_);
    const std::size_t in_use = in_use_.load(std::memory_order_relaxed) - 1;
    in_use_.store(in_use, std::memory_order_relaxed);
    const std::size_t free = free_count_.load(std::memory_order_relaxed);
    keep = !closed_ && free < max_free_;
    if (keep) {
      block->next_free_ = free_list_;
      free_list_ = block;
      free_count_.store(free + 1, std::memory_order_relaxed);
    }
    last = closed_ && in_use == 0;
  }
  if (!keep) DeleteBlock(block);
  if (last) delete this;
}

}  // namespace iocp
