// Memory for received bytes: blocks of one size, reference-counted, reused up to a limit.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

#include "base/mutex.h"
#include "iocp/buffer.h"

namespace iocp {

class BufferPool;

// A block of memory that several Buffers may share.
class Block {
 public:
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  [[nodiscard]] char* data() const { return memory_.data; }
  [[nodiscard]] std::size_t capacity() const { return capacity_; }

  void AddReference() { references_.fetch_add(1, std::memory_order_relaxed); }
  // Any thread. The last reference gives the block back to its pool.
  void DropReference() noexcept;
  // A Buffer over `size` bytes at `offset`, with a reference of its own.
  Buffer Slice(std::size_t offset, std::size_t size) {
    AddReference();
    return {this, data() + offset, size};
  }

  // True exactly when the caller's reference is the only one.
  [[nodiscard]] bool alone() const { return references_.load(std::memory_order_acquire) == 1; }
  // Only when alone. The memory that was there before is the caller's.
  BlockMemory Exchange(const BlockMemory& memory) { return std::exchange(memory_, memory); }

 private:
  friend class BufferPool;
  Block(BufferPool* pool, std::size_t capacity, const BlockMemory& memory)
      : pool_(pool), capacity_(capacity), memory_(memory) {}
  ~Block() { memory_.release(memory_.owner); }

  std::atomic<std::uint32_t> references_{1};
  Block* next_free_ = nullptr;  // in the pool's free list
  BufferPool* pool_;            // null for a block outside any pool
  std::size_t capacity_;
  BlockMemory memory_;
};

// Thread-safe. It lives until Close was called and the last block has come back, so bytes that a
// user keeps stay good after the server is gone.
class BufferPool {
 public:
  // `block_size` is the capacity of each block in bytes. At most `max_free` unused blocks are kept.
  static BufferPool* Create(std::size_t block_size, std::size_t max_free);
  // The owner is done with the pool: unused blocks go, and the pool goes with the last block.
  void Close();

  // The block that came back last, because it is still in the cache; a new one when there is none.
  // The caller has its only reference. Null when there is no memory.
  Block* Take() noexcept;
  // For bytes that wait for long: a copy of `buffer` in a block of just that size, outside any
  // pool. Returns `buffer` itself when it uses half of its block or more, or when there is no
  // memory.
  static Buffer Compact(Buffer buffer) noexcept;
  // The bytes of the block that are not the buffer's.
  static std::size_t Unused(const Buffer& buffer) noexcept {
    return buffer.block_ == nullptr ? 0 : buffer.block_->capacity() - buffer.size();
  }
  // `size` bytes, which are not none, in a block of their own outside any pool; `*memory` is where
  // to write them. Empty when there is no memory.
  static Buffer Allocate(std::size_t size, char** memory) noexcept;
  // A copy of `bytes` in a block of their own, in the same way.
  static Buffer Copy(std::string_view bytes) noexcept;

  [[nodiscard]] std::size_t block_size() const { return block_size_; }
  [[nodiscard]] std::size_t in_use() const { return in_use_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::size_t free() const { return free_count_.load(std::memory_order_relaxed); }

  // Counts blocks that are out but hold no data: buffers that a port has posted ahead.
  void CountPosted(int change) { posted_.fetch_add(change, std::memory_order_relaxed); }
  [[nodiscard]] int posted() const { return posted_.load(std::memory_order_relaxed); }

 private:
  friend class Block;
  BufferPool(std::size_t block_size, std::size_t max_free)
      : block_size_(block_size), max_free_(max_free) {}
  ~BufferPool() = default;
  static Block* NewBlock(BufferPool* pool, std::size_t capacity) noexcept;
  // Called with no lock held: giving back memory of other owners may have to wait.
  static void DeleteBlock(Block* block) noexcept;
  void Return(Block* block) noexcept;

  const std::size_t block_size_;
  const std::size_t max_free_;
  std::atomic<std::size_t> in_use_{0};      // written under mutex_
  std::atomic<std::size_t> free_count_{0};  // written under mutex_
  std::atomic<int> posted_{0};
  Mutex mutex_;
  Block* free_list_ IOCP_GUARDED_BY(mutex_) = nullptr;
  bool closed_ IOCP_GUARDED_BY(mutex_) = false;  // true exactly when Close was called
};

}  // namespace iocp
