// Bytes on their way: received ones in pooled memory, and those to send that the caller owns.
#pragma once

#include <cstddef>
#include <string_view>
#include <utility>

namespace iocp {

class Block;  // a pool's block of memory; cpp/stream/buffer_pool.h

// Memory and how it is given back: `release(owner)`, exactly once, on any thread. It must not
// throw.
struct BlockMemory {
  char* data = nullptr;
  void* owner = nullptr;
  void (*release)(void* owner) = nullptr;
};

// Received bytes: a part of a pooled block, shared by count. It is handed to OnReadCompleted; a
// hook that moves it out keeps the bytes, and keeps their block out of the pool until it lets go.
// Movable, and destructible on any thread.
class Buffer {
 public:
  Buffer() = default;
  // Takes over one reference to `block`.
  Buffer(Block* block, char* data, std::size_t size) : block_(block), data_(data), size_(size) {}
  Buffer(Buffer&& other) noexcept
      : block_(std::exchange(other.block_, nullptr)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(block_, other.block_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (block_ != nullptr) Release();
  }

  [[nodiscard]] const char* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::string_view view() const { return {data_, size_}; }

  // Lets go of the first `count` bytes, of which there are so many.
  void RemoveFront(std::size_t count) {
    data_ += count;
    size_ -= count;
  }
  // A buffer over `size` of these bytes, from `offset` on, which shares their block.
  [[nodiscard]] Buffer Slice(std::size_t offset, std::size_t size) const;

  // For a language whose byte strings own their memory: it can receive into one instead of copying.
  // Returns the size of this buffer's block in bytes if these bytes are the only ones in it and
  // begin where it begins; otherwise 0, and Exchange must not be called.
  [[nodiscard]] std::size_t exchangeable() const;
  // Replaces the block's memory by `memory`, which has that size; the block receives into it next.
  // The memory that was there, with this buffer's bytes at its beginning, belongs to the caller
  // now; this buffer is empty.
  BlockMemory Exchange(const BlockMemory& memory);

 private:
  friend class BufferPool;
  friend class Connection;
  void Release() noexcept;

  Block* block_ = nullptr;
  char* data_ = nullptr;
  std::size_t size_ = 0;
};

// Bytes to send that the caller owns: sent from where they are, without a copy. `release(owner)`
// is called exactly once when the system no longer needs them, sent or not, on a worker thread,
// between OnBatchBegin and OnBatchEnd. Connection::SendMessages may call it on the sending thread
// instead. It must not throw.
struct SharedBytes {
  const void* data = nullptr;
  std::size_t size = 0;
  void (*release)(void* owner) = nullptr;
  void* owner = nullptr;
};

}  // namespace iocp
