// The buffers that the kernel receives into: a few blocks of the pool in a ring shared with the
// kernel.
//
// A receive takes its buffer from the ring only when its data has arrived, so idle connections hold
// none. Newer kernels (6.12) use a buffer up piece by piece, which packs small messages into one
// block that stays in the cache. Older ones spend a whole buffer on each receive.
#pragma once

#include <liburing.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "stream/buffer_pool.h"

// Newer than the headers of Debian 12; part of the kernel's interface.
#ifndef IORING_CQE_F_BUF_MORE
#define IORING_CQE_F_BUF_MORE (1U << 4)
#endif

namespace iocp {

// io_uring_buf_reg under the field names of newer headers: older ones call `flags` padding.
struct PbufRegistration {
  std::uint64_t ring_addr;
  std::uint32_t ring_entries;
  std::uint16_t bgid;
  std::uint16_t flags;
  std::uint64_t resv[3];
};
int RegisterBufferRing(io_uring* ring, PbufRegistration* registration);

// Only the worker's thread uses it. Destroyed after the ring it was registered with (R10).
class UringBuffers {
 public:
  UringBuffers() = default;
  UringBuffers(const UringBuffers&) = delete;
  UringBuffers& operator=(const UringBuffers&) = delete;
  ~UringBuffers();

  // With `want_incremental`, small messages share a block where the kernel can do that. `blocks` is
  // a power of two, or 0 to let this class choose. Returns 0, or a negative errno.
  int Register(io_uring* ring, BufferPool* pool, bool want_incremental, unsigned blocks);

  // Replaces the blocks that are used up. Call it just before the kernel gets to work: by then the
  // blocks of the last batch are back in the pool, and still in the cache.
  void Refill();
  // Returns the bytes of a receive that has IORING_CQE_F_BUFFER; empty for `size` 0.
  Buffer Consume(std::uint32_t cqe_flags, std::size_t size);

  // About how many more receives the ring has room for; 0 exactly when it is empty.
  [[nodiscard]] std::size_t ReceivesLeft() const;
  [[nodiscard]] bool incremental() const { return incremental_; }

  static constexpr std::uint16_t kGroup = 0;

 private:
  struct Slot {
    Block* block = nullptr;  // null while the slot's buffer id is in missing_
    std::size_t used = 0;    // the bytes at its beginning that the kernel has filled
  };

  bool TryRegister(io_uring* ring, bool incremental, int* error);
  void Retire(std::uint16_t id);

  BufferPool* pool_ = nullptr;
  io_uring_buf_ring* shared_ = nullptr;  // the ring's memory, which the kernel reads and writes
  std::size_t shared_bytes_ = 0;
  bool incremental_ = false;  // true exactly when the kernel uses buffers up piece by piece
  std::vector<Slot> slots_;   // by buffer id
  std::vector<std::uint16_t> missing_;  // ids without a block
  std::size_t free_bytes_ = 0;          // in the ring, not yet received into
  std::size_t usual_size_ = 0;          // of a receive, a moving average
};

}  // namespace iocp
