// How much memory a cutter takes for what it keeps of a message.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "large_messages.h"
#include "support/resp.h"

namespace {

// Bytes of the heap that are in use.
std::atomic<std::size_t> heap{0};

void* Allocate(std::size_t size) {
  // In front of the bytes, their number.
  auto* const memory = static_cast<char*>(std::malloc(size + alignof(std::max_align_t)));
  if (memory == nullptr) return nullptr;
  std::memcpy(memory, &size, sizeof(size));
  heap += size;
  return memory + alignof(std::max_align_t);
}

void Free(void* memory) {
  if (memory == nullptr) return;
  char* const block = static_cast<char*>(memory) - alignof(std::max_align_t);
  std::size_t size = 0;
  std::memcpy(&size, block, sizeof(size));
  heap -= size;
  std::free(block);
}

}  // namespace

void* operator new(std::size_t size) {
  void* const memory = Allocate(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void* operator new[](std::size_t size) { return operator new(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return Allocate(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return Allocate(size); }
void operator delete(void* memory) noexcept { Free(memory); }
void operator delete[](void* memory) noexcept { Free(memory); }
void operator delete(void* memory, std::size_t) noexcept { Free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { Free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { Free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { Free(memory); }

namespace iocp::testing {
namespace {

using namespace std::string_literals;

// The memory that a cutter takes for `wire`, which has no message's last byte, at its worst.
std::size_t MostMemory(const FramingPtr& framing, std::string_view wire,
                       const std::vector<std::size_t>& each, std::size_t block_size,
                       std::size_t allowed_per_byte_part = 0) {
  const std::size_t before = heap;
  MessageCutter cutter(framing);
  std::vector<Message> found;
  found.reserve(1);
  std::size_t most = 0;  // above the bytes
  std::size_t at = 0;
  // Byte by byte there is nothing new in the rest.
  if (each[0] <= 2) wire = wire.substr(0, 150'000);
  for (std::size_t i = 0; at < wire.size(); ++i) {
    Buffer bytes = Received(wire.substr(at, each[i % each.size()]), block_size);
    at += bytes.size();
    const MessageCutter::Cuts cuts = cutter.Cut(bytes, 1, false, &found);
    EXPECT_FALSE(cuts.fault) << cutter.fault().Describe();
    EXPECT_TRUE(found.empty());
    cutter.Keep(std::move(bytes));
    bytes = Buffer();
    EXPECT_EQ(cutter.kept(), at);
    std::size_t allowed = at;
    if (allowed_per_byte_part != 0) allowed += at / allowed_per_byte_part;
    const std::size_t now = heap - before;
    if (now > allowed) most = std::max(most, now - allowed);
  }
  return most;
}

std::vector<std::vector<std::size_t>> WaysToReceive() {
  return {{1},         {2, 1},           {100},       {1448},
          {4096},      {4097, 1},        {16'384},    {16'385, 1},
          {33'000},    {33'000, 1},      {32'769, 3}, {65'536},
          {65'536, 1}, {65'536, 16'384}, {65'535},    {40'000, 1, 65'536, 20'000}};
}

TEST(MessageCutterMemoryTest, AnAnnouncedMessageTakesItsBytesAnd64KiB) {
  const std::string announced = "\0\x10\0\0"s + std::string(kMiB - 1, 'x');
  for (const auto& each : WaysToReceive()) {
    EXPECT_LE(MostMemory(LengthPrefix(), announced, each, 64 * kKiB), 64 * kKiB) << each[0];
    // An announced 4 GiB, of which little comes.
    LengthPrefixOptions options;
    options.max_size = std::size_t{1} << 33U;
    EXPECT_LE(MostMemory(LengthPrefix(options), "\xff\xff\xff\xff" + std::string(9999, 'x'), each,
                         64 * kKiB),
              64 * kKiB);
    EXPECT_LE(
        MostMemory(Netstring(std::size_t{1} << 40U), "1099511627776:" + announced, each, 64 * kKiB),
        64 * kKiB);
    EXPECT_LE(MostMemory(FixedSize(std::size_t{1} << 30U), announced, each, 64 * kKiB), 64 * kKiB);
    EXPECT_LE(MostMemory(FixedSize(32 * kKiB), announced.substr(0, 32 * kKiB - 1), each, 64 * kKiB),
              64 * kKiB);
  }
}

TEST(MessageCutterMemoryTest, AMessageOfUnknownLengthTakesItsBytesAnd64KiB) {
  const std::string bytes(kMiB - 4 * kKiB, 'x');
  for (const auto& each : WaysToReceive()) {
    EXPECT_LE(MostMemory(Delimiter({"\n"}), bytes.substr(0, 64 * kKiB), each, 64 * kKiB), 64 * kKiB)
        << each[0];
    EXPECT_LE(MostMemory(Delimiter({"\n"}, false, kMiB), bytes, each, 64 * kKiB), 64 * kKiB);
    EXPECT_LE(MostMemory(Slip(kMiB), bytes, each, 64 * kKiB), 64 * kKiB);
    EXPECT_LE(MostMemory(Cobs(kMiB), bytes, each, 64 * kKiB), 64 * kKiB);
    EXPECT_LE(MostMemory(std::make_shared<RespFraming>(),
                         "*9\r\n$900000\r\n" + bytes.substr(0, 9999), each, 64 * kKiB),
              64 * kKiB);
  }
}

TEST(MessageCutterMemoryTest, ReceiveBuffersOfAnySizeMakeNoDifference) {
  const std::string announced = "\0\x10\0\0"s + std::string(kMiB - 1, 'x');
  for (const std::size_t block :
       {512 * std::size_t{1}, 4 * kKiB, 16 * kKiB, 256 * kKiB, 16 * kMiB}) {
    for (const std::size_t each : {block, block / 2 + 1, block - 1, std::size_t{1}}) {
      if (each > kMiB) continue;
      EXPECT_LE(MostMemory(LengthPrefix(), announced, {each}, block), 64 * kKiB)
          << block << " " << each;
    }
  }
}

// The records of its parts are small beside a very large message.
TEST(MessageCutterMemoryTest, AVeryLargeMessageTakesLittleMore) {
  LengthPrefixOptions options;
  options.max_size = 64 * kMiB;
  const std::string announced = "\4\0\0\0"s + std::string(32 * kMiB, 'x');
  for (const std::size_t each : {std::size_t{1448}, std::size_t{16'384}, std::size_t{40'000}}) {
    EXPECT_LE(MostMemory(LengthPrefix(options), announced, {each}, 64 * kKiB, 64), 64 * kKiB);
    EXPECT_LE(MostMemory(Delimiter({"\n"}, false, 64 * kMiB), announced, {each}, 64 * kKiB, 16),
              64 * kKiB);
  }
}

// Its last byte may have been the beginning of a longer delimiter.
TEST(MessageCutterMemoryTest, WhatIsKeptBehindALongLineTakesLittle) {
  MessageCutter cutter(Delimiter({"\n", "\nyy"}, false, kMiB));
  const auto cut = [&](std::string_view bytes) {
    Buffer received = BufferPool::Copy(bytes);
    std::vector<Message> messages;
    const MessageCutter::Cuts cuts = cutter.Cut(received, 10, false, &messages);
    if (cuts.used != 0) cutter.Consume(received, cuts.used);
    const std::size_t count = messages.size();
    cutter.Keep(std::move(received));
    return count;
  };
  EXPECT_EQ(cut(std::string(200 * kKiB, 'x') + "\ny"), 0U);
  EXPECT_EQ(cut("z"), 1U);
  EXPECT_EQ(cutter.kept(), 2U);
  EXPECT_LE(cutter.memory(), 64 * kKiB);
}

TEST(MessageCutterMemoryTest, NothingIsKeptBehindALargeMessage) {
  for (const Large& large : LargeOnes()) {
    const auto [message, frame] = MessageAndFrame(large);
    const std::size_t before = heap;
    MessageCutter cutter(large.framing);
    ReceiveOne(cutter, frame, 5000, 64 * kKiB, [](Message& found) { EXPECT_NE(found.view(), ""); });
    EXPECT_LE(heap - before, 2 * kKiB);
    // Nor behind one that is dropped.
    const Buffer part = BufferPool::Copy(std::string_view(frame).substr(0, frame.size() / 2));
    std::vector<Message> found;
    cutter.Cut(part, 1, false, &found);
    cutter.Keep(part.Slice(0, part.size()));
    EXPECT_TRUE(cutter.inside());
    cutter.Drop();
    EXPECT_FALSE(cutter.inside());
  }
}

}  // namespace
}  // namespace iocp::testing
