#include "base/mutex.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <type_traits>

namespace iocp {
namespace {

using namespace std::chrono_literals;

static_assert(noexcept(std::declval<Mutex&>().lock()) && noexcept(std::declval<Mutex&>().unlock()));
#ifdef _WIN32
// There is no room for memory of its own to point to and a state besides.
static_assert(sizeof(Mutex) == sizeof(void*) && std::is_trivially_destructible_v<Mutex>);
#endif

TEST(MutexTest, OneThreadAtATime) {
  Mutex mutex;
  int count = 0;
  constexpr int kTurns = 20'000;
  const auto add = [&] {
    for (int i = 0; i < kTurns; ++i) {
      const MutexLock lock(mutex);
      ++count;
    }
  };
  std::thread other(add);
  add();
  other.join();
  EXPECT_EQ(count, 2 * kTurns);
}

// As with the last completion of a connection: whoever comes second frees what the lock is in, at
// once, while the first may still be on its way out.
TEST(MutexTest, MayBeFreedByTheThreadThatHadItLast) {
  struct Shared {
    Mutex mutex;
    int left IOCP_GUARDED_BY(mutex) = 2;
  };
  const auto leave = [](Shared* shared) {
    bool last = false;
    {
      const MutexLock lock(shared->mutex);
      last = --shared->left == 0;
    }
    if (last) delete shared;
  };
  constexpr int kRounds = 20'000;
  std::atomic<Shared*> handed{nullptr};
  std::thread other([&] {
    for (int i = 0; i < kRounds; ++i) {
      Shared* shared = nullptr;
      while ((shared = handed.exchange(nullptr)) == nullptr) std::this_thread::yield();
      leave(shared);
    }
  });
  for (int i = 0; i < kRounds; ++i) {
    auto* shared = new Shared;
    handed.store(shared);
    leave(shared);
    while (handed.load() != nullptr) std::this_thread::yield();
  }
  other.join();
}

TEST(CondVarTest, WakesWhoWaitsForTheCondition) {
  Mutex mutex;
  CondVar changed;
  bool ready = false;
  std::thread other([&] {
    const MutexLock lock(mutex);
    ready = true;
    changed.NotifyAll();
  });
  {
    const MutexLock lock(mutex);
    changed.Wait(mutex, [&] { return ready; });
    EXPECT_TRUE(ready);
  }
  other.join();
}

TEST(CondVarTest, GivesUpAfterTheTimeout) {
  Mutex mutex;
  CondVar changed;
  const MutexLock lock(mutex);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_FALSE(changed.WaitFor(mutex, 20ms, [] { return false; }));
  EXPECT_GE(std::chrono::steady_clock::now() - begin, 20ms);
  EXPECT_TRUE(changed.WaitFor(mutex, std::chrono::nanoseconds::max(), [] { return true; }));
}

}  // namespace
}  // namespace iocp
