#include "port/uring/uring_buffers.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cerrno>

#include "port/common/kernel_access.h"

namespace iocp {
namespace {

constexpr std::uint16_t kIncremental = 2;  // IOU_PBUF_RING_INC, Linux 6.12

// The kernel goes round through all blocks of the ring. Together they should fit into a
// second-level cache beside the data that hooks touch, and still hold a few batches (kBatchBytes):
// 8 blocks of 64 KiB.
constexpr std::size_t kIncrementalBytes = 512 * 1024;
// Where each receive spends a whole block, there must be more of them: 32 blocks of 64 KiB. A small
// message touches only the first page of its block.
constexpr std::size_t kWholeBytes = 2 * 1024 * 1024;
constexpr std::size_t kFewestBlocks = 8;
constexpr std::size_t kMostBlocks = 1024;

constexpr std::size_t kSmallestUsualSize = 64;

unsigned BlocksFor(std::size_t block_size, bool incremental) {
  const std::size_t bytes = incremental ? kIncrementalBytes : kWholeBytes;
  const std::size_t blocks = std::clamp(bytes / block_size, kFewestBlocks, kMostBlocks);
  return static_cast<unsigned>(std::bit_floor(blocks));
}

}  // namespace

int RegisterBufferRing(io_uring* ring, PbufRegistration* registration) {
  static_assert(sizeof(PbufRegistration) == sizeof(io_uring_buf_reg));
  return io_uring_register_buf_ring(ring, reinterpret_cast<io_uring_buf_reg*>(registration), 0);
}

UringBuffers::~UringBuffers() {
  for (std::size_t id = 0; id < slots_.size(); ++id) {
    if (slots_[id].block != nullptr) Retire(static_cast<std::uint16_t>(id));
  }
  if (shared_ != nullptr) ::munmap(shared_, shared_bytes_);
}

int UringBuffers::Register(io_uring* ring, BufferPool* pool, bool want_incremental,
                           unsigned blocks) {
  pool_ = pool;
  int error = 0;
  for (const bool incremental : {true, false}) {
    if (incremental && !want_incremental) continue;
    const unsigned count = blocks != 0 ? blocks : BlocksFor(pool->block_size(), incremental);
    assert(std::has_single_bit(count));
    slots_.assign(count, Slot{});
    if (TryRegister(ring, incremental, &error)) break;
    // A kernel that does not know the flag answers EINVAL.
    if (error != -EINVAL) break;
  }
  if (error != 0) {
    slots_.clear();
    return error;
  }
  missing_.reserve(slots_.size());
  for (std::size_t id = slots_.size(); id > 0; --id) {
    missing_.push_back(static_cast<std::uint16_t>(id - 1));
  }
  Refill();
  return 0;
}

bool UringBuffers::TryRegister(io_uring* ring, bool incremental, int* error) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t bytes = (slots_.size() * sizeof(io_uring_buf) + page - 1) / page * page;
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    *error = -errno;
    return false;
  }
  PbufRegistration registration{};
  registration.ring_addr = reinterpret_cast<std::uintptr_t>(memory);
  registration.ring_entries = static_cast<std::uint32_t>(slots_.size());
  registration.bgid = kGroup;
  registration.flags = incremental ? kIncremental : std::uint16_t{0};
  *error = RegisterBufferRing(ring, &registration);
  if (*error < 0) {
    ::munmap(memory, bytes);
    return false;
  }
  *error = 0;
  shared_ = static_cast<io_uring_buf_ring*>(memory);
  shared_bytes_ = bytes;
  incremental_ = incremental;
  io_uring_buf_ring_init(shared_);
  return true;
}

void UringBuffers::Refill() {
  int added = 0;
  while (!missing_.empty()) {
    Block* block = pool_->Take();
    if (block == nullptr) break;
    const std::uint16_t id = missing_.back();
    missing_.pop_back();
    slots_[id] = {block, 0};
    pool_->CountPosted(1);
    free_bytes_ += block->capacity();
    io_uring_buf_ring_add(shared_, block->data(), static_cast<unsigned>(block->capacity()), id,
                          io_uring_buf_ring_mask(static_cast<std::uint32_t>(slots_.size())),
                          added++);
  }
  if (added > 0) io_uring_buf_ring_advance(shared_, added);
}

Buffer UringBuffers::Consume(std::uint32_t cqe_flags, std::size_t size) {
  const auto id = static_cast<std::uint16_t>(cqe_flags >> IORING_CQE_BUFFER_SHIFT);
  Slot& slot = slots_[id];
  assert(slot.block != nullptr && slot.used + size <= slot.block->capacity());
  Buffer buffer;
  if (size > 0) {
    buffer = slot.block->Slice(slot.used, size);
    KernelWrote(buffer.data(), size);
    slot.used += size;
    free_bytes_ -= size;
    usual_size_ = (7 * usual_size_ + size) / 8;
  }
  // An end of stream uses nothing up, although some kernels leave the flag out for it (6.19, see
  // axboe/liburing #1545). Taking them at their word would free a block that they still write to.
  const bool used_up = !incremental_ || (size > 0 && (cqe_flags & IORING_CQE_F_BUF_MORE) == 0);
  if (used_up) {
    Retire(id);
    missing_.push_back(id);
  }
  return buffer;
}

void UringBuffers::Retire(std::uint16_t id) {
  Slot& slot = slots_[id];
  free_bytes_ -= slot.block->capacity() - slot.used;
  pool_->CountPosted(-1);
  slot.block->DropReference();
  slot = {};
}

std::size_t UringBuffers::ReceivesLeft() const {
  const std::size_t blocks = slots_.size() - missing_.size();
  if (!incremental_ || blocks == 0) return blocks;
  return std::max(blocks, free_bytes_ / std::max(usual_size_, kSmallestUsualSize));
}

}  // namespace iocp
