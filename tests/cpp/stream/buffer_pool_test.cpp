#include "stream/buffer_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace iocp {
namespace {

constexpr std::size_t kBlockSize = 1024;

struct Closer {
  void operator()(BufferPool* pool) const { pool->Close(); }
};
using Pool = std::unique_ptr<BufferPool, Closer>;

Pool MakePool(std::size_t max_free) { return Pool(BufferPool::Create(kBlockSize, max_free)); }

// A buffer that owns the only reference to a block of the pool.
Buffer Filled(BufferPool& pool, std::string_view bytes) {
  Block* block = pool.Take();
  std::memcpy(block->data(), bytes.data(), bytes.size());
  return {block, block->data(), bytes.size()};
}

TEST(BufferPoolTest, GivesBlocksOfItsSize) {
  const Pool pool = MakePool(4);
  EXPECT_EQ(pool->block_size(), kBlockSize);
  EXPECT_EQ(pool->in_use(), 0U);
  EXPECT_EQ(pool->free(), 0U);
  Block* block = pool->Take();
  ASSERT_NE(block, nullptr);
  EXPECT_EQ(block->capacity(), kBlockSize);
  std::memset(block->data(), 0x5a, block->capacity());
  EXPECT_EQ(pool->in_use(), 1U);
  block->DropReference();
  EXPECT_EQ(pool->in_use(), 0U);
  EXPECT_EQ(pool->free(), 1U);
}

TEST(BufferPoolTest, ABlockReturnsWithItsLastReference) {
  const Pool pool = MakePool(4);
  Block* block = pool->Take();
  std::memcpy(block->data(), "headtail", 8);
  Buffer head = block->Slice(0, 4);
  Buffer tail = block->Slice(4, 4);
  block->DropReference();
  EXPECT_EQ(pool->in_use(), 1U);
  EXPECT_EQ(head.view(), "head");
  head = Buffer{};
  EXPECT_EQ(pool->in_use(), 1U);
  EXPECT_EQ(tail.view(), "tail");
  tail = Buffer{};
  EXPECT_EQ(pool->in_use(), 0U);
  EXPECT_EQ(pool->free(), 1U);
}

TEST(BufferPoolTest, ABlockThatIsTakenAgainStartsAfresh) {
  const Pool pool = MakePool(4);
  Block* block = pool->Take();
  {
    const Buffer slice = block->Slice(0, 1);
  }
  block->DropReference();
  Block* again = pool->Take();
  EXPECT_EQ(again, block);
  EXPECT_EQ(pool->free(), 0U);
  again->DropReference();  // the only one
  EXPECT_EQ(pool->in_use(), 0U);
}

TEST(BufferPoolTest, TheBlockThatCameBackLastIsTakenFirst) {
  const Pool pool = MakePool(4);
  Block* first = pool->Take();
  Block* second = pool->Take();
  Block* third = pool->Take();
  second->DropReference();
  third->DropReference();
  first->DropReference();
  EXPECT_EQ(pool->Take(), first);
  EXPECT_EQ(pool->Take(), third);
  EXPECT_EQ(pool->Take(), second);
  for (Block* block : {first, second, third}) block->DropReference();
}

TEST(BufferPoolTest, KeepsNoMoreFreeBlocksThanItMay) {
  for (const std::size_t max_free : {std::size_t{0}, std::size_t{3}}) {
    const Pool pool = MakePool(max_free);
    std::vector<Block*> blocks;
    for (int i = 0; i < 10; ++i) blocks.push_back(pool->Take());
    EXPECT_EQ(pool->in_use(), 10U);
    for (Block* block : blocks) {
      block->DropReference();
      EXPECT_LE(pool->free(), max_free);
    }
    EXPECT_EQ(pool->free(), max_free);
    EXPECT_EQ(pool->in_use(), 0U);
  }
}

TEST(BufferPoolTest, BytesAreGoodAfterThePoolWasClosed) {
  Pool pool = MakePool(4);
  Buffer kept = Filled(*pool, "kept");
  Buffer moved = Filled(*pool, "moved");
  Filled(*pool, "free again");
  pool.reset();
  // The leak checker sees whether the pool goes with the last one.
  EXPECT_EQ(kept.view(), "kept");
  std::thread([last = std::move(moved)] { EXPECT_EQ(last.view(), "moved"); }).join();
  EXPECT_EQ(kept.view(), "kept");
}

TEST(BufferPoolTest, AClosedPoolKeepsNothing) {
  Pool pool = MakePool(4);
  Block* first = pool->Take();
  Block* second = pool->Take();
  BufferPool* closed = pool.get();  // lives as long as a block is out
  pool.reset();
  first->DropReference();
  EXPECT_EQ(closed->in_use(), 1U);
  EXPECT_EQ(closed->free(), 0U);
  second->DropReference();
}

TEST(BufferPoolTest, CompactGivesTheBlockBack) {
  const Pool pool = MakePool(4);
  const Buffer small = BufferPool::Compact(Filled(*pool, "a few bytes"));
  EXPECT_EQ(small.view(), "a few bytes");
  EXPECT_EQ(pool->in_use(), 0U);
  EXPECT_EQ(pool->free(), 1U);
}

TEST(BufferPoolTest, CompactLeavesABufferAsItIsThatUsesHalfOfItsBlock) {
  const Pool pool = MakePool(4);
  for (const std::size_t size : {kBlockSize, kBlockSize / 2}) {
    Buffer buffer = Filled(*pool, std::string(size, 'x'));
    const char* data = buffer.data();
    buffer = BufferPool::Compact(std::move(buffer));
    EXPECT_EQ(buffer.data(), data);
    EXPECT_EQ(buffer.size(), size);
    EXPECT_EQ(pool->in_use(), 1U);
  }
}

TEST(BufferPoolTest, CompactOfASliceLeavesTheOthersAlone) {
  const Pool pool = MakePool(4);
  Block* block = pool->Take();
  std::memcpy(block->data(), "headtail", 8);
  const Buffer head = block->Slice(0, 4);
  const Buffer tail = BufferPool::Compact(block->Slice(4, 4));
  block->DropReference();
  EXPECT_EQ(pool->in_use(), 1U);
  EXPECT_EQ(head.view(), "head");
  EXPECT_EQ(tail.view(), "tail");
}

// Memory of another owner, which counts how often it was given back.
struct Lent {
  std::vector<char> bytes = std::vector<char>(kBlockSize);
  int returned = 0;

  BlockMemory memory() { return {bytes.data(), this, &Return}; }
  static void Return(void* self) { ++static_cast<Lent*>(self)->returned; }
};

TEST(BufferPoolTest, OnlyBytesAloneAtTheBeginningAreExchangeable) {
  const Pool pool = MakePool(4);
  EXPECT_EQ(Buffer().exchangeable(), 0U);
  Block* block = pool->Take();
  const Buffer head = block->Slice(0, 4);
  EXPECT_EQ(head.exchangeable(), 0U) << "the port still holds the block";
  {
    const Buffer tail = block->Slice(4, 4);
    block->DropReference();
    EXPECT_EQ(head.exchangeable(), 0U) << "other bytes are in it";
    EXPECT_EQ(tail.exchangeable(), 0U);
  }
  EXPECT_EQ(head.exchangeable(), kBlockSize);
  const Buffer middle(pool->Take(), nullptr, 4);
  EXPECT_EQ(middle.exchangeable(), 0U) << "they do not begin where it begins";
}

TEST(BufferPoolTest, ExchangedMemoryIsReceivedIntoAndGivenBackOnce) {
  Lent first;
  Lent second;
  {
    const Pool pool = MakePool(4);
    Buffer buffer = Filled(*pool, "malloc's");
    const BlockMemory own = buffer.Exchange(first.memory());
    EXPECT_EQ(std::string_view(own.data, 8), "malloc's");
    own.release(own.owner);
    EXPECT_EQ(buffer.size(), 0U);
    EXPECT_EQ(pool->in_use(), 0U);

    buffer = Filled(*pool, "received");
    const BlockMemory lent = buffer.Exchange(second.memory());
    EXPECT_EQ(lent.owner, &first);
    EXPECT_EQ(std::string_view(first.bytes.data(), 8), "received");
    EXPECT_EQ(first.returned, 0) << "it is the caller's now";
    EXPECT_EQ(second.returned, 0) << "the pool keeps the block";
  }
  EXPECT_EQ(second.returned, 1) << "it goes with the pool";
}

TEST(BufferPoolTest, ABlockThatComesBackIsNotTouched) {
  const Pool pool = MakePool(4);
  const std::string bytes(kBlockSize, '\x5a');
  const char* const data = [&] { return Filled(*pool, bytes).data(); }();
  Block* const again = pool->Take();
  ASSERT_EQ(again->data(), data);
  EXPECT_EQ(std::string(again->data(), kBlockSize), bytes) << "somebody wrote to it";
  again->DropReference();
}

TEST(BufferPoolTest, MemoryIsGivenBackUnderNoLock) {
  // Its owner, when it is given back, waits for another thread that uses the same pool.
  struct Owner {
    BufferPool* pool;
    bool returned = false;
    char bytes[kBlockSize]{};

    static void Return(void* self) {
      auto* const owner = static_cast<Owner*>(self);
      std::thread([owner] { owner->pool->Take()->DropReference(); }).join();
      owner->returned = true;
    }
  };
  const Pool pool = MakePool(0);  // keeps nothing
  Owner owner{pool.get()};
  {
    Buffer buffer = Filled(*pool, "bytes");
    const BlockMemory own = buffer.Exchange({owner.bytes, &owner, &Owner::Return});
    own.release(own.owner);
    // Exchange has given the block back, and with it the new memory.
  }
  EXPECT_TRUE(owner.returned);
}

TEST(BufferPoolTest, CompactTwiceCopiesOnce) {
  const Pool pool = MakePool(4);
  Buffer buffer = BufferPool::Compact(Filled(*pool, "once"));
  const char* data = buffer.data();
  buffer = BufferPool::Compact(std::move(buffer));
  EXPECT_EQ(buffer.data(), data);
  EXPECT_EQ(buffer.view(), "once");
}

TEST(BufferPoolTest, CountsWhatIsPosted) {
  const Pool pool = MakePool(4);
  pool->CountPosted(3);
  pool->CountPosted(-1);
  EXPECT_EQ(pool->posted(), 2);
  pool->CountPosted(-2);
}

TEST(BufferTest, IsEmptyAfterItWasMoved) {
  const Pool pool = MakePool(4);
  Buffer from = Filled(*pool, "bytes");
  Buffer to = std::move(from);
  EXPECT_EQ(from.size(), 0U);  // NOLINT(bugprone-use-after-move): that is what is tested
  EXPECT_EQ(to.view(), "bytes");
  Buffer other = Filled(*pool, "other");
  other = std::move(to);
  EXPECT_EQ(other.view(), "bytes");
}

TEST(BufferPoolTest, EightThreadsShareIt) {
  constexpr std::size_t kThreads = 8;
  constexpr int kRounds = 20'000;
  constexpr std::size_t kSlots = 16;
  const Pool pool = MakePool(5);
  // Buffers change hands through the slots: taken on one thread, shared, let go on another.
  std::vector<Buffer> slots(kSlots);
  std::vector<std::mutex> locks(kSlots);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      auto dice = static_cast<std::uint32_t>(t + 1);
      for (int round = 0; round < kRounds; ++round) {
        dice = dice * 1664525U + 1013904223U;
        Block* block = pool->Take();
        const auto mark = static_cast<char>(dice >> 16U);
        block->data()[0] = mark;
        block->data()[kBlockSize - 1] = mark;
        Buffer mine = block->Slice(0, kBlockSize);
        Buffer shared = block->Slice(0, kBlockSize);
        block->DropReference();
        {
          const std::size_t slot = (dice >> 24U) % kSlots;
          const std::lock_guard lock(locks[slot]);
          std::swap(slots[slot], shared);
        }
        if (mine.data()[0] != mark || mine.data()[kBlockSize - 1] != mark) ++wrong;
        if (shared.size() != 0 && shared.data()[0] != shared.data()[kBlockSize - 1]) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0) << "a block had two owners";
  slots.clear();
  EXPECT_EQ(pool->in_use(), 0U);
  EXPECT_LE(pool->free(), 5U);
}

}  // namespace
}  // namespace iocp
