// The queue that is linked through its objects.
#include "base/fifo.h"

#include <gtest/gtest.h>

#include <vector>

namespace iocp::testing {
namespace {

struct Item {
  int number = 0;
  Item* next = nullptr;
  Item* next_other = nullptr;
  bool listed = false;
};
using Plain = Fifo<Item, &Item::next>;
using Listed = Fifo<Item, &Item::next_other, &Item::listed>;

template <typename Queue>
std::vector<int> TakeAll(Queue& queue) {
  std::vector<int> numbers;
  while (const Item* const item = queue.Pop()) numbers.push_back(item->number);
  return numbers;
}

TEST(FifoTest, IsFirstInFirstOut) {
  Item items[] = {{1}, {2}, {3}};
  Plain queue;
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.first(), nullptr);
  EXPECT_EQ(queue.Pop(), nullptr);
  for (Item& item : items) queue.Push(item);
  EXPECT_EQ(queue.first(), &items[0]);
  EXPECT_EQ(&queue.last(), &items[2]);
  EXPECT_EQ(TakeAll(queue), (std::vector{1, 2, 3}));
  EXPECT_TRUE(queue.empty());
  // An item that was taken may be pushed again, also into a queue that was empty for a while.
  queue.Push(items[1]);
  queue.Push(items[0]);
  EXPECT_EQ(TakeAll(queue), (std::vector{2, 1}));
}

TEST(FifoTest, AppendsAnotherAndLeavesItEmpty) {
  Item items[] = {{1}, {2}, {3}, {4}};
  Plain queue;
  Plain later;
  queue.Append(later);
  EXPECT_TRUE(queue.empty());
  later.Push(items[0]);
  later.Push(items[1]);
  queue.Append(later);
  EXPECT_TRUE(later.empty());
  later.Push(items[2]);
  queue.Append(later);
  queue.Push(items[3]);
  EXPECT_EQ(TakeAll(queue), (std::vector{1, 2, 3, 4}));
}

TEST(FifoTest, HasAListedItemOnce) {
  Item items[] = {{1}, {2}};
  Listed queue;
  queue.Push(items[0]);
  queue.Push(items[1]);
  queue.Push(items[0]);
  EXPECT_TRUE(items[0].listed);
  EXPECT_EQ(queue.Pop(), &items[0]);
  EXPECT_FALSE(items[0].listed);
  queue.Push(items[0]);
  EXPECT_EQ(TakeAll(queue), (std::vector{2, 1}));
}

TEST(FifoTest, AnItemMayBeInSeveralQueues) {
  Item item{1};
  Plain plain;
  Listed listed;
  plain.Push(item);
  listed.Push(item);
  EXPECT_EQ(TakeAll(plain), (std::vector{1}));
  EXPECT_EQ(TakeAll(listed), (std::vector{1}));
}

}  // namespace
}  // namespace iocp::testing
