#include "stream/reorder_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "stream/buffer_pool.h"

namespace iocp {
namespace {

Received Numbered(std::uint64_t sequence) {
  Received received;
  received.sequence = sequence;
  return received;
}

TEST(ReorderQueue, DeliversAtOnceWhatIsInOrder) {
  ReorderQueue queue;
  std::vector<std::uint64_t> delivered;
  for (std::uint64_t i = 0; i < 5; ++i) {
    queue.Push(Numbered(i), [&](Received&& next) { delivered.push_back(next.sequence); });
    EXPECT_EQ(delivered.size(), i + 1);
    EXPECT_EQ(queue.waiting(), 0U);
  }
}

TEST(ReorderQueue, EveryOrderOfArrivalIsDeliveredInOrder) {
  std::vector<std::uint64_t> arrival(6);
  std::iota(arrival.begin(), arrival.end(), 0);
  do {
    ReorderQueue queue;
    std::vector<std::uint64_t> delivered;
    for (const std::uint64_t sequence : arrival) {
      queue.Push(Numbered(sequence), [&](Received&& next) { delivered.push_back(next.sequence); });
    }
    ASSERT_TRUE(std::is_sorted(delivered.begin(), delivered.end()));
    ASSERT_EQ(delivered.size(), arrival.size());
    ASSERT_EQ(queue.waiting(), 0U);
  } while (std::next_permutation(arrival.begin(), arrival.end()));
}

TEST(ReorderQueue, TheEndOfTheStreamWaitsForTheDataBeforeIt) {
  ReorderQueue queue;
  std::vector<ErrorKind> delivered;
  const auto deliver = [&](Received&& next) { delivered.push_back(next.end.kind); };
  Received end = Numbered(2);
  end.end = {ErrorKind::kEndOfStream, 0};
  queue.Push(std::move(end), deliver);
  queue.Push(Numbered(1), deliver);
  EXPECT_TRUE(delivered.empty());
  EXPECT_EQ(queue.waiting(), 2U);
  queue.Push(Numbered(0), deliver);
  EXPECT_EQ(delivered, (std::vector{ErrorKind::kNone, ErrorKind::kNone, ErrorKind::kEndOfStream}));
}

TEST(ReorderQueue, ClearLetsGoOfWhatWaits) {
  BufferPool* pool = BufferPool::Create(64, 4);
  ReorderQueue queue;
  Block* block = pool->Take();
  queue.Push({1, Buffer(block, block->data(), 8), {}}, [](Received&&) { FAIL(); });
  EXPECT_EQ(pool->in_use(), 1U);
  queue.Clear();
  EXPECT_EQ(pool->in_use(), 0U);
  pool->Close();
}

}  // namespace
}  // namespace iocp
