// Memory runs out on the real ports of this system: each allocation of the library in turn fails,
// once, through a start, a conversation and a shutdown. The simulation does the same to the engine
// alone; this is about what it has not: threads, starts, ports and the system.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "support/backends.h"
#include "support/client.h"
#include "support/handlers.h"

namespace iocp {
namespace {

// True exactly while the library's allocations are counted. They are on every thread from its first
// instruction on: all threads but the test's own are workers.
thread_local bool in_library = true;

class Scope {
 public:
  explicit Scope(bool library) : before_(std::exchange(in_library, library)) {}
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;
  ~Scope() { in_library = before_; }

 private:
  const bool before_;
};

// Allocations that were not freed.
std::atomic<std::int64_t> live{0};
// How many of the library's allocations are good before one fails; below 0 once it has.
std::atomic<std::int64_t> good{-1};

void* Allocate(std::size_t size) {
  if (in_library && good.load(std::memory_order_relaxed) >= 0 &&
      good.fetch_sub(1, std::memory_order_relaxed) == 0) {
    return nullptr;
  }
  void* memory = std::malloc(size == 0 ? 1 : size);
  if (memory != nullptr) live.fetch_add(1, std::memory_order_relaxed);
  return memory;
}

void Free(void* memory) {
  if (memory != nullptr) live.fetch_sub(1, std::memory_order_relaxed);
  std::free(memory);
}

}  // namespace
}  // namespace iocp

void* operator new(std::size_t size) {
  void* memory = iocp::Allocate(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void* operator new[](std::size_t size) { return operator new(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return iocp::Allocate(size);
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return iocp::Allocate(size);
}
void operator delete(void* memory) noexcept { iocp::Free(memory); }
void operator delete[](void* memory) noexcept { iocp::Free(memory); }
void operator delete(void* memory, std::size_t) noexcept { iocp::Free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { iocp::Free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { iocp::Free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { iocp::Free(memory); }

namespace iocp {
namespace {

using testing::Client;
using testing::Eventually;

class GatheringEcho final : public testing::EchoHandler {
 public:
  void OnReadCompleted(Connection& connection, Buffer& buffer) override {
    // Two pieces: a gathered send.
    const std::string_view all = buffer.view();
    const std::string_view pieces[] = {all.substr(0, all.size() / 2), all.substr(all.size() / 2)};
    EXPECT_NE(connection.Send(pieces, 2), SendResult::kBacklogFull);
  }
};

class OutOfMemoryTest : public ::testing::TestWithParam<std::string> {
 protected:
  static constexpr std::size_t kBytes = 300'000;
  static constexpr int kClients = 4;

  // One after the other they send and receive at the same time; how many got all back. Those that
  // did not were reset: what is missing must not look like an end.
  int Converse(const Server& server) {
    int served = 0;
    for (int i = 0; i < kClients; ++i) {
      std::string data(kBytes, static_cast<char>('a' + i));
      const Client client(server.address());
      bool all_sent = false;
      std::thread sender([&] {
        const Scope ours(false);
        all_sent = client.Send(data);
        if (all_sent) client.EndStream();
      });
      int error = 0;
      const std::string got = client.Receive(kBytes, &error);
      sender.join();
      EXPECT_EQ(got, data.substr(0, got.size()));
      if (got.size() == kBytes) {
        ++served;
      } else {
        // Whoever meets the reset first takes it off the socket.
        EXPECT_TRUE(!all_sent || testing::IsReset(error)) << error << " after " << got.size();
      }
    }
    return served;
  }
};

TEST_P(OutOfMemoryTest, EachAllocationInTurn) {
  const Scope ours(false);
  Options options;
  options.backend = GetParam();
  options.port = 0;
  options.workers = 2;
  options.idle_timeout = std::chrono::seconds(60);
  {  // what is made once in a process is there
    GatheringEcho handler;
    Server server(handler);
    ASSERT_TRUE(server.Start(options).ok());
    ASSERT_EQ(Converse(server), kClients);
  }
  const std::size_t descriptors = testing::CountDescriptors();
  int started = 0;
  std::int64_t n = 0;
  for (bool failed = true; failed && !HasFailure(); ++n) {
    SCOPED_TRACE("allocation " + std::to_string(n));
    const std::int64_t live_before = live.load();
    {
      GatheringEcho handler;
      Server server(handler);
      good.store(n);
      Status status;
      {
        const Scope library(true);
        status = server.Start(options);
      }
      if (status.ok()) {
        ++started;
        EXPECT_GE(Converse(server), kClients - 1) << "one failure cost more than one connection";
        EXPECT_TRUE(Eventually([&] { return server.stats().connections == 0; }));
        const Scope library(true);
        server.Shutdown();
      } else {
        EXPECT_EQ(status.problem, Status::Problem::kSystem) << status.message;
        EXPECT_EQ(status.error.kind, ErrorKind::kOutOfResources) << status.message;
        EXPECT_FALSE(server.running());
      }
      failed = good.exchange(-1) < 0;
      EXPECT_EQ(handler.established, handler.closed);
    }
    EXPECT_EQ(live.load(), live_before) << "memory was left behind";
    EXPECT_EQ(testing::CountDescriptors(), descriptors) << "descriptors were left behind";
  }
  EXPECT_GE(started, 10);
  EXPECT_GE(n - started, 10) << "starts that fail";
}

INSTANTIATE_TEST_SUITE_P(Ports, OutOfMemoryTest, ::testing::ValuesIn(testing::AvailableBackends()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace iocp
