// One accepted send, and the memory it lives in.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "iocp/buffer.h"

namespace iocp {

// Memory for the copies of what hooks send. They come and go with every batch, and are more at once
// than malloc keeps at hand for a thread. It has blocks of a few sizes and hands out first the one
// that came back last, because it is still in the cache. Not thread-safe: each worker has its own.
// A block comes from AllocateBytes, so whoever has it last may simply free it.
class SendMemory {
 public:
  SendMemory() = default;
  SendMemory(const SendMemory&) = delete;
  SendMemory& operator=(const SendMemory&) = delete;
  ~SendMemory();

  // A block of at least `*size` bytes. Sets `*size` to its size, and `*size_class` to the class to
  // give it back with. Null when there is no memory.
  void* Take(std::size_t* size, std::uint8_t* size_class) noexcept;
  void GiveBack(void* memory, std::uint8_t size_class) noexcept;

  [[nodiscard]] std::size_t kept() const;  // bytes, for the next Take

  // The size of a block for `size` bytes.
  static std::size_t BlockSize(std::size_t size);
  // The largest block that is kept.
  static constexpr std::size_t kLargestBlock = 4096;

  // The class of a block that is not kept.
  static constexpr std::uint8_t kNoClass = 255;

 private:
  struct Free {
    Free* next;
  };
  struct List {
    Free* first = nullptr;
    std::size_t count = 0;
  };

  // Each size is twice the one before, so at least half of a block is used, but for the smallest.
  // At most 704 KiB are kept.
  static constexpr std::array<std::size_t, 5> kSizes{256, 512, 1024, 2048, 4096};
  static constexpr std::array<std::size_t, 5> kMostKept{256, 256, 128, 64, 64};
  static std::size_t ClassOf(std::size_t size);
  std::array<List, kSizes.size()> free_;
};

// Copy and Share make one, Destroy ends it. `memory` is the calling worker's, or null on any other
// thread.
struct SendItem {
  SendItem* next = nullptr;
  const char* data = nullptr;
  std::size_t size = 0;
  void (*release)(void* owner) = nullptr;  // for bytes that belong to `owner`
  void* owner = nullptr;
  // True exactly when `release` must be called between OnBatchBegin and OnBatchEnd.
  bool release_in_batch = false;
  // True exactly when the connection failed before the last byte was sent.
  bool dropped = false;
  std::uint8_t size_class = SendMemory::kNoClass;  // of its memory
  // Bytes of memory that it takes beyond its `size` bytes to send.
  std::uint32_t overhead = 0;

  // How many more bytes its block can take; 0 where the bytes to send are elsewhere.
  [[nodiscard]] std::size_t room() const {
    return data == reinterpret_cast<const char*>(this + 1) ? overhead - sizeof(SendItem) : 0;
  }

  // Copies the pieces behind the item, one after the other. Null when there is no memory.
  static SendItem* Copy(const std::string_view* pieces, std::size_t count,
                        SendMemory* memory) noexcept {
    const std::size_t size = TotalSize(pieces, count);
    return Copy(pieces, count, size, size, memory);
  }
  // The same for pieces of `size` bytes in all, into a block with room for at least `room` bytes.
  static SendItem* Copy(const std::string_view* pieces, std::size_t count, std::size_t size,
                        std::size_t room, SendMemory* memory) noexcept;
  static std::size_t TotalSize(const std::string_view* pieces, std::size_t count) {
    std::size_t size = 0;
    for (std::size_t i = 0; i < count; ++i) size += pieces[i].size();
    return size;
  }
  static SendItem* Share(const SharedBytes& bytes, bool release_in_batch,
                         SendMemory* memory) noexcept;
  // Calls `release` where there is one.
  static void Destroy(SendItem* item, SendMemory* memory) noexcept;
};

}  // namespace iocp
