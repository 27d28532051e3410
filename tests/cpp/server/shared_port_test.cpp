// Several workers on one port, with real threads: on a system whose ports have one worker each, a
// port that lets them in one at a time. The workers share what is above the port, and the thread
// sanitizer, which Windows does not have, checks it here.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine.h"
#include "port/readiness/readiness_port.h"
#include "support/client.h"
#include "support/handlers.h"

namespace iocp::testing {
namespace {

// The port's own rules are kept by the lock. It is not held while a worker sleeps.
class SharedPort final : public CompletionPort {
 public:
  explicit SharedPort(const PortOptions& options) : port_(options) {}

  Error Open() override {
    const std::lock_guard lock(mutex_);
    return std::exchange(open_, true) ? Error{} : port_.Open();
  }
  Error Accept(Socket& listener) override {
    const std::lock_guard lock(mutex_);
    return port_.Accept(listener);
  }
  Error Adopt(Socket& socket, NativeSocket handle, Address* local, Address* remote) override {
    const std::lock_guard lock(mutex_);
    return port_.Adopt(socket, handle, local, remote);
  }
  void Receive(Socket& socket) override { Locked(&CompletionPort::Receive, socket); }
  void Pause(Socket& socket) override { Locked(&CompletionPort::Pause, socket); }
  void Resume(Socket& socket) override { Locked(&CompletionPort::Resume, socket); }
  void Send(Socket& socket, const Piece* pieces, std::size_t count) override {
    const std::lock_guard lock(mutex_);
    port_.Send(socket, pieces, count);
  }
  std::size_t SendNow(Socket& socket, const Piece* pieces, std::size_t count) override {
    const std::lock_guard lock(mutex_);
    return port_.SendNow(socket, pieces, count);
  }
  [[nodiscard]] bool sends_now() const override { return port_.sends_now(); }
  void ShutdownSend(Socket& socket) override { Locked(&CompletionPort::ShutdownSend, socket); }
  void Cancel(Socket& socket) override { Locked(&CompletionPort::Cancel, socket); }
  void Close(Socket& socket, bool reset) override {
    const std::lock_guard lock(mutex_);
    port_.Close(socket, reset);
  }
  void Discard(NativeSocket handle, bool reset) override {
    const std::lock_guard lock(mutex_);
    port_.Discard(handle, reset);
  }
  bool ReceiveAtHand(Socket& socket, std::uint64_t seen) override {
    const std::lock_guard lock(mutex_);
    return port_.ReceiveAtHand(socket, seen);
  }
  bool SendAtHand(Socket& socket) override {
    const std::lock_guard lock(mutex_);
    return port_.SendAtHand(socket);
  }
  std::size_t Unacknowledged(Socket& socket) override {
    const std::lock_guard lock(mutex_);
    return port_.Unacknowledged(socket);
  }
  void Post(Posting& posting) override { port_.Post(posting); }
  // One completion at a time, so that those of one connection come to different workers; or all to
  // one of them, where there is a favourite.
  std::size_t Wait(Completion* batch, std::size_t capacity, std::size_t max_bytes,
                   TimePoint deadline) override {
    const Waiting scope;
    for (;;) {
      if (Now() < deadline && OthersTurn()) {
        std::this_thread::yield();
        continue;
      }
      {
        const std::lock_guard lock(mutex_);
        const std::size_t count =
            port_.Wait(batch, std::min<std::size_t>(capacity, 2), max_bytes, TimePoint::min());
        if (count != 0 || Now() >= deadline) return count;
      }
      std::this_thread::yield();
    }
  }
  [[nodiscard]] TimePoint Now() const override { return port_.Now(); }
  [[nodiscard]] bool shared() const override { return true; }
  [[nodiscard]] int pending_accepts() const override { return port_.pending_accepts(); }

  // While the favourite waits, the others get nothing.
  static inline std::atomic<std::thread::id> favourite{};
  static inline std::atomic<bool> favourite_waits{false};
  static inline std::atomic<int> waiting{0};

 private:
  // One worker, while it is in Wait.
  class Waiting {
   public:
    Waiting() {
      ++waiting;
      if (favourite == std::this_thread::get_id()) favourite_waits = true;
    }
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;
    ~Waiting() {
      if (favourite == std::this_thread::get_id()) favourite_waits = false;
      --waiting;
    }
  };

  static bool OthersTurn() { return favourite_waits && favourite != std::this_thread::get_id(); }
  void Locked(void (CompletionPort::*call)(Socket&), Socket& socket) {
    const std::lock_guard lock(mutex_);
    (port_.*call)(socket);
  }

  std::mutex mutex_;
  bool open_ = false;
  ReadinessPort port_;
};

const PortKind kSharedKind = {"shared", kReadinessPortKind.why_unavailable,
                              [](const PortOptions& options) -> std::unique_ptr<CompletionPort> {
                                return std::make_unique<SharedPort>(options);
                              },
                              kReadinessPortKind.listen, kReadinessPortKind.close_listener};

class SlowEcho final : public EchoHandler {
 public:
  std::function<void()> on_read;  // before the echo

  void OnReadCompleted(Connection& connection, Buffer& buffer) override {
    if (on_read) on_read();
    connection.Send(buffer.data(), buffer.size());
  }
};

// An engine with a thread for each worker, the first of which may be the port's favourite; stopped
// in the end.
class Running {
 public:
  explicit Running(const Options& options, bool favourite = false) {
    ListenOptions listen;
    listen.host = options.host;
    engine_ = std::make_unique<Engine>(handler_, options, kSharedKind);
    const Status status = engine_->Listen(listen);
    EXPECT_TRUE(status.ok()) << status.message;
    for (std::size_t i = 0; i < engine_->worker_count(); ++i) {
      EXPECT_FALSE(engine_->worker(i).Open());
    }
    for (std::size_t i = 0; i < engine_->worker_count(); ++i) {
      threads_.emplace_back([this, i, favourite] {
        if (favourite && i == 0) SharedPort::favourite = std::this_thread::get_id();
        engine_->worker(i).Run();
      });
    }
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;
  ~Running() { Stop(); }

  void Stop() {
    if (threads_.empty()) return;
    engine_->RequestStop(engine_->Now() + std::chrono::seconds(5));
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    SharedPort::favourite = std::thread::id{};
  }
  [[nodiscard]] const Address& address() const { return engine_->listeners().front()->address(); }
  SlowEcho& handler() { return handler_; }
  Engine& engine() { return *engine_; }

 private:
  SlowEcho handler_;
  std::unique_ptr<Engine> engine_;
  std::vector<std::thread> threads_;
};

TEST(SharedPortTest, ClientsComeTalkAndGoUnderShortTimeouts) {
  Options options;
  options.workers = 4;
  options.max_free_contexts = 2;
  options.idle_timeout = std::chrono::milliseconds(15);
  options.first_data_timeout = std::chrono::milliseconds(15);
  options.close_timeout = std::chrono::milliseconds(15);
  Running running(options);
  constexpr int kClients = 4;
  constexpr int kRounds = 150;
  std::vector<std::thread> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([&, i] {
      for (int round = 0; round < kRounds; ++round) {
        Client client(running.address());
        for (int message = 0; message <= round % 4; ++message) {
          if (!client.Send("hello") || client.Receive(5).empty()) break;
        }
        // Some end in order, some are ended by a timeout, some break.
        if ((round + i) % 3 == 0) client.EndStream();
        if ((round + i) % 3 == 1) {
          client.Reset();
        } else {
          static_cast<void>(client.WaitForEnd());
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  running.Stop();
  EXPECT_EQ(running.handler().established, running.handler().closed);
  EXPECT_GT(running.handler().established, 0);
  EXPECT_EQ(running.engine().connection_count(), 0U);
}

// The other worker went to sleep before there was a timer, and has heard of nothing since.
TEST(SharedPortTest, ATimerGoesOffWhileTheWorkerThatSetItIsInAHook) {
  Options options;
  options.workers = 2;
  options.idle_timeout = std::chrono::milliseconds(200);
  Running running(options, true);
  std::atomic<bool> free{false};
  running.handler().on_read = [&] { EXPECT_TRUE(Eventually([&] { return free.load(); })); };
  ASSERT_TRUE(
      Eventually([] { return SharedPort::waiting == 2 && SharedPort::favourite_waits.load(); }));
  const Client silent(running.address());
  const Client busy(running.address());
  ASSERT_TRUE(Eventually([&] { return running.handler().established == 2; }));
  ASSERT_TRUE(busy.Send("x"));
  EXPECT_EQ(silent.WaitForEnd(), 0) << "kept for as long as the hook of another";
  free = true;
}

}  // namespace
}  // namespace iocp::testing
