#include "stream/send_queue.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace iocp {
namespace {

SendItem* Item(std::string_view text) { return SendItem::Copy(&text, 1, nullptr); }

std::string Gathered(const SendQueue& queue) {
  Piece pieces[kMaxPieces];
  const std::size_t count = queue.Gather(pieces);
  std::string text;
  for (std::size_t i = 0; i < count; ++i) {
    EXPECT_GT(pieces[i].size, 0U);
    text.append(static_cast<const char*>(pieces[i].data), pieces[i].size);
  }
  return text;
}

std::vector<std::size_t> Sizes(SendQueue& queue) {
  std::vector<std::size_t> sizes;
  while (SendItem* item = queue.Pop()) {
    sizes.push_back(item->size);
    SendItem::Destroy(item, nullptr);
  }
  return sizes;
}

TEST(SendQueue, CopiesPiecesIntoOneSend) {
  const std::string_view pieces[] = {"one", "", "two"};
  SendItem* item = SendItem::Copy(pieces, 3, nullptr);
  EXPECT_EQ(std::string_view(item->data, item->size), "onetwo");
  SendItem::Destroy(item, nullptr);
}

TEST(SendMemory, GivesBackWhatCameBackLast) {
  SendMemory memory;
  const std::string text(100, 'x');
  const std::string_view piece = text;
  SendItem* first = SendItem::Copy(&piece, 1, &memory);
  SendItem* second = SendItem::Copy(&piece, 1, &memory);
  SendItem::Destroy(first, &memory);
  SendItem::Destroy(second, &memory);
  SendItem* third = SendItem::Copy(&piece, 1, &memory);
  EXPECT_EQ(third, second);
  EXPECT_EQ(std::string_view(third->data, third->size), text);
  SendItem::Destroy(third, nullptr);  // on a thread that is no worker
}

TEST(SendMemory, TakesEverySizeAndKeepsABoundedAmount) {
  SendMemory memory;
  for (const std::size_t size : {0U, 1U, 190U, 200U, 950U, 1000U, 4000U, 5000U, 1000000U}) {
    const std::string text(size, 'y');
    const std::string_view piece = text;
    std::vector<SendItem*> items;
    for (int i = 0; i < 300; ++i) {
      items.push_back(SendItem::Copy(&piece, 1, &memory));
      ASSERT_EQ(std::string_view(items.back()->data, items.back()->size), text);
    }
    for (SendItem* item : items) SendItem::Destroy(item, &memory);
  }
  EXPECT_LE(memory.kept(), 704U * 1024);
  EXPECT_GT(memory.kept(), 0U);
}

TEST(SendQueue, GathersInOrderAndTellsOfEachSendOnce) {
  SendQueue queue;
  for (const char* text : {"abc", "de", "f"}) queue.Push(Item(text));
  EXPECT_EQ(Gathered(queue), "abcdef");
  SendQueue complete;
  EXPECT_EQ(queue.Advance(4, complete), 1U);  // a short send, in the middle of the second
  EXPECT_EQ(Gathered(queue), "ef");
  EXPECT_EQ(queue.Advance(2, complete), 2U);
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(Sizes(complete), (std::vector<std::size_t>{3, 2, 1}));
}

TEST(SendQueue, EmptySendsCompleteInTheirPlace) {
  SendQueue queue;
  for (const char* text : {"", "a", "", ""}) queue.Push(Item(text));
  SendQueue complete;
  EXPECT_EQ(queue.Advance(1, complete), 4U);
  EXPECT_EQ(Sizes(complete), (std::vector<std::size_t>{0, 1, 0, 0}));
  queue.Push(Item(""));
  EXPECT_EQ(Gathered(queue), "");
  EXPECT_EQ(queue.Advance(0, complete), 1U);
}

TEST(SendQueue, PacksWhatFitsBehindTheLastOne) {
  SendQueue queue;
  const auto pack = [&](std::string_view text) { return queue.Pack(&text, 1, text.size()); };
  EXPECT_FALSE(pack("nowhere"));
  queue.Push(Item("abc"));
  const std::size_t memory = queue.first()->size + queue.first()->overhead;
  EXPECT_TRUE(pack("de"));
  Piece pieces[kMaxPieces];
  ASSERT_EQ(queue.Gather(pieces), 1U);
  EXPECT_TRUE(pack("f"));  // while the system has the first five
  SendQueue complete;
  EXPECT_EQ(queue.Advance(pieces[0].size, complete), 0U);
  EXPECT_EQ(Gathered(queue), "f");
  EXPECT_EQ(queue.first()->size + queue.first()->overhead, memory);
  EXPECT_TRUE(pack(std::string(queue.first()->room(), 'g')));
  EXPECT_FALSE(pack("h")) << "the block is full";
  EXPECT_EQ(queue.Advance(Gathered(queue).size(), complete), 1U);
  EXPECT_FALSE(pack("i")) << "there is none any more";
  const SharedBytes bytes{"abc", 3, nullptr, nullptr};
  queue.Push(SendItem::Share(bytes, false, nullptr));
  EXPECT_FALSE(pack("j")) << "into bytes that are not ours";
}

TEST(SendQueue, BoundsOneGatherInPiecesAndBytes) {
  SendQueue many;
  for (std::size_t i = 0; i < 2 * kMaxPieces; ++i) many.Push(Item("x"));
  EXPECT_EQ(Gathered(many).size(), kMaxPieces);
  SendQueue large;
  const std::string text(SendQueue::kMaxGather + 1, 'y');
  large.Push(Item(text));
  EXPECT_EQ(Gathered(large).size(), SendQueue::kMaxGather);
}

TEST(SendQueue, GathersFromAPlaceAndForward) {
  SendQueue queue;
  for (const std::string_view text : {"abc", "", "defg"}) queue.Push(Item(text));
  SendQueue complete;
  queue.Advance(1, complete);  // "a" is out
  SendQueue::Place place;
  const auto next = [&](std::size_t most) {
    Piece pieces[kMaxPieces];
    const std::size_t count = queue.Gather(pieces, place, most);
    std::string text;
    for (std::size_t i = 0; i < count; ++i) {
      text.append(static_cast<const char*>(pieces[i].data), pieces[i].size);
    }
    place = queue.Forward(place, text.size());
    return text;
  };
  EXPECT_EQ(next(1), "b");
  EXPECT_EQ(next(3), "cde");
  EXPECT_EQ(next(100), "fg");
  EXPECT_EQ(next(100), "");
  // Bytes that come later, packed into the last send or behind it, are seen from the same place.
  const std::string_view more = "hi";
  ASSERT_TRUE(queue.Pack(&more, 1, more.size()));
  EXPECT_EQ(next(100), "hi");
  queue.Push(Item("jk"));
  EXPECT_EQ(next(100), "jk");
  // Bytes that are out go, and a new place stands behind them.
  queue.Advance(8, complete);
  place = {};
  EXPECT_EQ(next(100), "jk");
  EXPECT_EQ(Sizes(complete), (std::vector<std::size_t>{3, 0, 6}));
}

TEST(SendQueue, SharedBytesAreReleasedOnce) {
  int released = 0;
  const SharedBytes bytes{"abc", 3, [](void* owner) { ++*static_cast<int*>(owner); }, &released};
  {
    SendQueue queue;
    queue.Push(SendItem::Share(bytes, true, nullptr));
    queue.Push(SendItem::Share(bytes, true, nullptr));
    SendQueue complete;
    queue.Advance(3, complete);
    EXPECT_EQ(released, 0) << "while its completion is still to be reported";
  }
  EXPECT_EQ(released, 2);
}

TEST(SendQueue, AppendKeepsTheOrderOfBoth) {
  SendQueue first;
  SendQueue second;
  first.Push(Item("ab"));
  second.Push(Item("cd"));
  SendQueue complete;
  first.Advance(1, complete);
  first.Append(second);
  EXPECT_TRUE(second.empty());
  EXPECT_EQ(Gathered(first), "bcd");
  first.Append(second);
  EXPECT_EQ(Gathered(first), "bcd");
}

// Random sends, taken by the system in random portions, come out as they went in.
TEST(SendQueue, AnyPortionsKeepTheStream) {
  std::mt19937 random(3);
  SendQueue queue;
  std::string expected;
  std::string written;
  std::size_t sends = 0;
  std::size_t completed = 0;
  while (sends < 2000 || !queue.empty()) {
    if (sends < 2000 && random() % 2 == 0) {
      std::string text(random() % 200, '\0');
      for (char& c : text) c = static_cast<char>('a' + random() % 26);
      queue.Push(Item(text));
      expected += text;
      ++sends;
    }
    const std::string next = Gathered(queue);
    const std::size_t taken = next.empty() ? 0 : random() % (next.size() + 1);
    written += next.substr(0, taken);
    SendQueue complete;
    completed += queue.Advance(taken, complete);
  }
  EXPECT_EQ(written, expected);
  EXPECT_EQ(completed, sends);
}

}  // namespace
}  // namespace iocp
