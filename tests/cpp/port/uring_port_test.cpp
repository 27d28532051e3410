// Tests of parts that only the io_uring port has: setting up a ring on old kernels, and the buffer
// ring. The promises of every port are in conformance_test.cpp.
#include "port/uring/uring_port.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "support/seccomp.h"

namespace iocp {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// A kernel that does not know some flags and has room for a ring of a certain size only.
struct FakeKernel {
  unsigned unknown_flags = 0;
  unsigned most_entries = ~0U;
  int always = 0;  // what it answers to everything, if not 0
  std::vector<unsigned> flags_seen;
  std::vector<unsigned> entries_seen;
  std::vector<unsigned> completions_seen;
};
FakeKernel* fake_kernel = nullptr;

int FakeSetUp(unsigned entries, io_uring*, io_uring_params* params) {
  FakeKernel& kernel = *fake_kernel;
  kernel.flags_seen.push_back(params->flags);
  kernel.entries_seen.push_back(entries);
  kernel.completions_seen.push_back(params->cq_entries);
  if (kernel.always != 0) return kernel.always;
  if ((params->flags & kernel.unknown_flags) != 0) return -EINVAL;
  return entries > kernel.most_entries ? -ENOMEM : 0;
}

class UringSetUpTest : public ::testing::Test {
 protected:
  UringSetUpTest() { fake_kernel = &kernel_; }
  ~UringSetUpTest() override { fake_kernel = nullptr; }

  FakeKernel kernel_;
  io_uring ring_{};
};

constexpr unsigned kAllFlags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                               IORING_SETUP_COOP_TASKRUN | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;

TEST_F(UringSetUpTest, AsksForEverythingFirst) {
  EXPECT_EQ(SetUpRing(&ring_, FakeSetUp), 0);
  EXPECT_EQ(kernel_.flags_seen, std::vector<unsigned>{kAllFlags});
  EXPECT_GE(kernel_.completions_seen[0], 4 * kernel_.entries_seen[0]);
}

TEST_F(UringSetUpTest, GivesUpOneFlagAtATime) {
  kernel_.unknown_flags = kAllFlags;
  EXPECT_EQ(SetUpRing(&ring_, FakeSetUp), 0);
  const std::vector<unsigned> expected = {
      kAllFlags,
      IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_CLAMP |
          IORING_SETUP_CQSIZE,
      IORING_SETUP_COOP_TASKRUN | IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE,
      IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE,
      IORING_SETUP_CQSIZE,
      0,
  };
  EXPECT_EQ(kernel_.flags_seen, expected);
  EXPECT_EQ(kernel_.completions_seen.back(), 0U);
}

TEST_F(UringSetUpTest, KeepsTheFlagsThatAKernelKnows) {
  kernel_.unknown_flags = IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER;
  EXPECT_EQ(SetUpRing(&ring_, FakeSetUp), 0);
  EXPECT_EQ(kernel_.flags_seen.back(),
            IORING_SETUP_COOP_TASKRUN | IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE);
}

TEST_F(UringSetUpTest, StopsWhenNothingIsLeftToGiveUp) {
  kernel_.always = -EINVAL;
  EXPECT_EQ(SetUpRing(&ring_, FakeSetUp), -EINVAL);
  EXPECT_EQ(kernel_.flags_seen.size(), 6U);
}

TEST_F(UringSetUpTest, NeverAsksAgainWhatIsForbidden) {
  kernel_.always = -EPERM;
  EXPECT_EQ(SetUpRing(&ring_, FakeSetUp), -EPERM);
  EXPECT_EQ(kernel_.flags_seen.size(), 1U);
}

TEST_F(UringSetUpTest, MakesDoWithASmallerRing) {
  kernel_.most_entries = 100;
  EXPECT_EQ(SetUpRing(&ring_, FakeSetUp), 0);
  EXPECT_EQ(kernel_.entries_seen.back(), 64U);
  EXPECT_EQ(kernel_.flags_seen.back(), kAllFlags);
  EXPECT_GE(kernel_.completions_seen.back(), 4 * kernel_.entries_seen.back());
}

TEST_F(UringSetUpTest, GivesUpWhenThereIsNoMemoryAtAll) {
  kernel_.always = -ENOMEM;
  EXPECT_EQ(SetUpRing(&ring_, FakeSetUp), -ENOMEM);
  EXPECT_LE(kernel_.entries_seen.size(), 10U);
}

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(ExplainRefusalTest, NamesTheSwitchAndItsValue) {
  const std::string nobody = ExplainRefusal(EPERM, 2, "6.18.0");
  EXPECT_TRUE(Contains(nobody, "/proc/sys/kernel/io_uring_disabled is 2")) << nobody;
  const std::string privileged = ExplainRefusal(EPERM, 1, "6.18.0");
  EXPECT_TRUE(Contains(privileged, "io_uring_disabled is 1")) << privileged;
  EXPECT_TRUE(Contains(privileged, "io_uring_group")) << privileged;
}

TEST(ExplainRefusalTest, SuspectsTheContainerOtherwise) {
  for (const int disabled : {0, -1}) {
    const std::string reason = ExplainRefusal(EPERM, disabled, "6.18.0");
    EXPECT_TRUE(Contains(reason, "seccomp")) << reason;
    EXPECT_TRUE(Contains(reason, "EPERM")) << reason;
    EXPECT_FALSE(Contains(reason, "io_uring_disabled")) << reason;
  }
}

TEST(ExplainRefusalTest, NamesTheKernelThatIsTooOld) {
  for (const int error_number : {ENOSYS, EINVAL}) {
    const std::string reason = ExplainRefusal(error_number, -1, "5.4.0-generic");
    EXPECT_TRUE(Contains(reason, "Linux 6.0")) << reason;
    EXPECT_TRUE(Contains(reason, "5.4.0-generic")) << reason;
  }
}

TEST(ExplainRefusalTest, HasASentenceForEverything) {
  for (int error_number = 1; error_number < 134; ++error_number) {
    EXPECT_GT(ExplainRefusal(error_number, 0, "6.0").size(), 30U) << error_number;
  }
  EXPECT_TRUE(Contains(ExplainRefusal(ENOMEM, 0, "6.0"), "ulimit -l"));
  EXPECT_TRUE(Contains(ExplainRefusal(EMFILE, 0, "6.0"), "ulimit -n"));
}

// Each in a process that has not tried it yet: once it has worked, nobody asks again.
template <typename Body>
void InAFreshProcess(Body body) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT((body(), std::_Exit(::testing::Test::HasFailure() ? 1 : 0)),
              ::testing::ExitedWithCode(0), "");
}

TEST(UringTrialTest, AShortageOfDescriptorsIsExplainedAndNotRemembered) {
  InAFreshProcess([] {
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
    const int lowest_free = ::dup(0);
    ASSERT_GE(lowest_free, 0);
    ::close(lowest_free);
    rlimit none = before;
    none.rlim_cur = static_cast<rlim_t>(lowest_free);
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
    const std::string reason = WhyUringIsUnavailable();
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    EXPECT_TRUE(Contains(reason, "ulimit -n")) << reason;
    EXPECT_EQ(WhyUringIsUnavailable(), "");
  });
}

// Filters of system calls are of one thread.
TEST(UringTrialTest, EachCallThatIsRefusedIsExplainedByItsError) {
  InAFreshProcess([] {
    const auto why_when_refused = [](long call, int error_number) {
      std::string reason;
      std::thread([&] {
        EXPECT_TRUE(testing::Refuse({call}, error_number));
        reason = WhyUringIsUnavailable();
      }).join();
      return reason;
    };
    for (const long call : {SYS_io_uring_setup, SYS_io_uring_register, SYS_io_uring_enter}) {
      const std::string forbidden = why_when_refused(call, EPERM);
      EXPECT_TRUE(Contains(forbidden, "seccomp")) << call << ": " << forbidden;
      const std::string short_of_memory = why_when_refused(call, ENOMEM);
      EXPECT_TRUE(Contains(short_of_memory, "ulimit -l")) << call << ": " << short_of_memory;
      const std::string too_old = why_when_refused(call, EINVAL);
      EXPECT_TRUE(Contains(too_old, "too old")) << call << ": " << too_old;
    }
    EXPECT_EQ(WhyUringIsUnavailable(), "");
  });
}

int ConnectTo(std::uint16_t port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  return fd;
}

void WriteAll(int fd, const std::string& bytes) {
  std::size_t written = 0;
  while (written < bytes.size()) {
    const ssize_t n = ::send(fd, bytes.data() + written, bytes.size() - written, MSG_NOSIGNAL);
    ASSERT_GT(n, 0);
    written += static_cast<std::size_t>(n);
  }
}

// A port with connections to clients that the test holds the other ends of.
class Bench {
 public:
  Bench(std::size_t block_size, const UringTuning& tuning, std::size_t connections)
      : pool_(BufferPool::Create(block_size, 1000)) {
    PortOptions options;
    options.pool = pool_;
    port_ = std::make_unique<UringPort>(options, tuning);
    EXPECT_FALSE(port_->Open());
    ListenOptions listen;
    Address bound;
    EXPECT_TRUE(kUringPortKind.listen(listen, &listener_.handle, &bound).ok());
    EXPECT_FALSE(port_->Accept(listener_));
    for (std::size_t i = 0; i < connections; ++i) {
      clients_.push_back(ConnectTo(bound.port));
      Run([&] { return servers_.size() > i; });
    }
    EXPECT_EQ(servers_.size(), connections);
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;
  ~Bench() {
    port_->Cancel(listener_);
    for (const auto& server : servers_) port_->Cancel(*server);
    Run([&] { return listener_ended_ && ended_ == servers_.size(); });
    EXPECT_EQ(ended_, servers_.size());
    const NativeSocket listening = listener_.handle;
    port_->Close(listener_, false);
    kUringPortKind.close_listener(listening);
    for (const auto& server : servers_) port_->Close(*server, true);
    port_.reset();
    for (const int fd : clients_) ::close(fd);
    kept_.clear();
    EXPECT_EQ(pool_->posted(), 0);
    EXPECT_EQ(pool_->in_use(), 0U);
    pool_->Close();
  }

  // Waits until `done` says so, or long enough for the test to have failed.
  template <class Done>
  bool Run(Done done) {
    const TimePoint give_up = port_->Now() + seconds(20);
    while (!done()) {
      if (port_->Now() > give_up) return false;
      const std::size_t count = port_->Wait(batch_.data(), batch_.size(), kBatchBytes,
                                            std::min(give_up, port_->Now() + milliseconds(100)));
      for (std::size_t i = 0; i < count; ++i) Handle(batch_[i]);
    }
    return true;
  }

  UringPort& port() { return *port_; }
  BufferPool& pool() { return *pool_; }
  int client(std::size_t i) { return clients_[i]; }
  Socket& server(std::size_t i) { return *servers_[i]; }
  const std::string& received(std::size_t i) { return received_[servers_[i].get()]; }
  std::size_t receives() const { return receives_; }
  // Keeps received buffers, instead of giving their blocks back.
  void set_keep(bool keep) {
    keep_ = keep;
    if (!keep) kept_.clear();
  }

 private:
  void Handle(Completion& completion) {
    if (completion.operation == Operation::kAccept) {
      if (completion.last) listener_ended_ = true;
      if (completion.error) return;
      auto socket = std::make_unique<Socket>();
      Address local;
      Address remote;
      ASSERT_FALSE(port_->Adopt(*socket, completion.accepted, &local, &remote));
      port_->Receive(*socket);
      servers_.push_back(std::move(socket));
    } else if (completion.operation == Operation::kReceive) {
      if (completion.last) {
        ++ended_;
        EXPECT_EQ(completion.error.kind, ErrorKind::kCancelled);
        return;
      }
      ++receives_;
      received_[completion.socket] += completion.buffer.view();
      if (keep_) {
        kept_.push_back(std::move(completion.buffer));
      } else {
        completion = Completion{};
      }
    }
  }

  BufferPool* pool_;
  std::unique_ptr<UringPort> port_;
  Socket listener_;
  bool listener_ended_ = false;
  std::vector<int> clients_;
  std::vector<std::unique_ptr<Socket>> servers_;
  std::size_t ended_ = 0;
  std::map<Socket*, std::string> received_;
  std::size_t receives_ = 0;
  bool keep_ = false;
  std::vector<Buffer> kept_;
  std::vector<Completion> batch_{kBatchCompletions};
};

std::string Pattern(std::size_t size, unsigned seed) {
  std::string bytes(size, '\0');
  for (char& byte : bytes) {
    seed = seed * 1664525 + 1013904223;
    byte = static_cast<char>(seed >> 24U);
  }
  return bytes;
}

// Both ways to use buffers up, where the kernel has both.
class UringBuffersTest : public ::testing::TestWithParam<bool> {
 protected:
  static UringTuning Tuning(unsigned blocks = 0) {
    UringTuning tuning;
    tuning.incremental_buffers = GetParam();
    tuning.blocks = blocks;
    return tuning;
  }
};
INSTANTIATE_TEST_SUITE_P(Modes, UringBuffersTest, ::testing::Bool(),
                         [](const ::testing::TestParamInfo<bool>& mode) {
                           return mode.param ? "Incremental" : "Whole";
                         });

TEST_P(UringBuffersTest, DeliverWhatWasSent) {
  Bench bench(4096, Tuning(), 4);
  if (!GetParam()) {
    EXPECT_FALSE(bench.port().buffers().incremental());
  }
  std::vector<std::string> sent;
  std::vector<std::thread> writers;
  for (unsigned i = 0; i < 4; ++i) sent.push_back(Pattern(300'000 + 1000 * i, i));
  for (std::size_t i = 0; i < 4; ++i) {
    writers.emplace_back([&bench, &sent, i] { WriteAll(bench.client(i), sent[i]); });
  }
  EXPECT_TRUE(bench.Run([&] {
    for (std::size_t i = 0; i < 4; ++i) {
      if (bench.received(i).size() < sent[i].size()) return false;
    }
    return true;
  }));
  for (std::thread& writer : writers) writer.join();
  for (std::size_t i = 0; i < 4; ++i) EXPECT_TRUE(bench.received(i) == sent[i]) << i;
}

TEST_P(UringBuffersTest, SmallMessagesShareABlockWhereTheKernelCan) {
  Bench bench(64 * 1024, Tuning(), 1);
  const std::size_t before = bench.pool().in_use();
  bench.set_keep(true);
  for (std::size_t i = 1; i <= 100; ++i) {
    WriteAll(bench.client(0), "message!");
    ASSERT_TRUE(bench.Run([&] { return bench.received(0).size() >= 8 * i; }));
  }
  if (bench.port().buffers().incremental()) {
    EXPECT_LE(bench.pool().in_use(), before + 1);
  } else {
    EXPECT_GE(bench.pool().in_use(), before + 99);
  }
}

TEST_P(UringBuffersTest, AFewBlocksServeManyConnections) {
  constexpr std::size_t kConnections = 60;
  Bench bench(512, Tuning(2), kConnections);
  std::vector<std::string> sent;
  for (unsigned round = 0; round < 3; ++round) {
    for (std::size_t i = 0; i < kConnections; ++i) {
      if (round == 0) sent.emplace_back();
      const std::string bytes = Pattern(3000, round * 1000 + static_cast<unsigned>(i));
      sent[i] += bytes;
      WriteAll(bench.client(i), bytes);
    }
    EXPECT_TRUE(bench.Run([&] {
      for (std::size_t i = 0; i < kConnections; ++i) {
        if (bench.received(i).size() < sent[i].size()) return false;
      }
      return true;
    }));
  }
  for (std::size_t i = 0; i < kConnections; ++i) EXPECT_TRUE(bench.received(i) == sent[i]) << i;
  EXPECT_GT(bench.port().counters().starved, 0U);
  // Armed again as far as there are buffers, not all at once, most of them to find none again.
  EXPECT_LT(bench.port().counters().starved, 3 * bench.receives());
}

TEST_P(UringBuffersTest, AStarvedReceiveCanBePausedAndCancelled) {
  constexpr std::size_t kConnections = 20;
  Bench bench(512, Tuning(2), kConnections);
  for (std::size_t i = 0; i < kConnections; ++i) {
    WriteAll(bench.client(i), Pattern(2000, static_cast<unsigned>(i)));
  }
  EXPECT_TRUE(bench.Run([&] { return bench.port().counters().starved > 0; }));
  for (std::size_t i = 0; i < kConnections; i += 2) bench.port().Pause(bench.server(i));
  EXPECT_TRUE(bench.Run([&] {
    for (std::size_t i = 1; i < kConnections; i += 2) {
      if (bench.received(i).size() < 2000) return false;
    }
    return true;
  }));
  // The rest is cancelled with the bench: some paused, some with data that nobody will read.
}

TEST(UringPortTest, AnEndOfStreamUsesNoBufferUp) {
  // The end of a stream comes with a buffer id in some kernels; nothing may be freed for it.
  BufferPool* pool = BufferPool::Create(4096, 100);
  PortOptions options;
  options.pool = pool;
  UringTuning tuning;
  tuning.blocks = 2;
  UringPort port(options, tuning);
  ASSERT_FALSE(port.Open());
  Socket listener;
  Address bound;
  ASSERT_TRUE(kUringPortKind.listen(ListenOptions{}, &listener.handle, &bound).ok());
  ASSERT_FALSE(port.Accept(listener));
  std::vector<Completion> batch(64);
  const std::string message = "some bytes before the end";
  // More rounds than blocks: if ends used blocks up, the two would get out of step with the kernel.
  for (int round = 0; round < 500; ++round) {
    const int client = ConnectTo(bound.port);
    WriteAll(client, message + std::to_string(round));
    ::close(client);
    Socket socket;
    std::string received;
    bool ended = false;
    const TimePoint give_up = port.Now() + seconds(20);
    while (!ended && port.Now() < give_up) {
      const std::size_t count = port.Wait(batch.data(), batch.size(), kBatchBytes, give_up);
      for (std::size_t i = 0; i < count; ++i) {
        Completion& completion = batch[i];
        if (completion.operation == Operation::kAccept) {
          Address local;
          Address remote;
          ASSERT_FALSE(port.Adopt(socket, completion.accepted, &local, &remote));
          port.Receive(socket);
        } else if (completion.last) {
          EXPECT_EQ(completion.error.kind, ErrorKind::kEndOfStream);
          ended = true;
        } else {
          received += completion.buffer.view();
        }
        completion = Completion{};
      }
    }
    ASSERT_TRUE(ended);
    ASSERT_EQ(received, message + std::to_string(round));
    port.Close(socket, false);
  }
  port.Cancel(listener);
  for (bool ended = false; !ended;) {
    const std::size_t count =
        port.Wait(batch.data(), batch.size(), kBatchBytes, port.Now() + seconds(20));
    ASSERT_GT(count, 0U);
    ended = batch[0].last;
  }
  const NativeSocket listening = listener.handle;
  port.Close(listener, false);
  kUringPortKind.close_listener(listening);
  pool->Close();
}

int RefuseDeferredWork(unsigned entries, io_uring* ring, io_uring_params* params) {
  constexpr unsigned kTooNew =
      IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN;
  if ((params->flags & kTooNew) != 0) return -EINVAL;
  return io_uring_queue_init_params(entries, ring, params);
}

TEST(UringPortTest, WorksWithoutTheNewerFlags) {
  UringTuning tuning;
  tuning.set_up = RefuseDeferredWork;
  Bench bench(4096, tuning, 3);
  EXPECT_EQ(bench.port().setup_flags() & IORING_SETUP_DEFER_TASKRUN, 0U);
  for (std::size_t i = 0; i < 3; ++i) WriteAll(bench.client(i), Pattern(50'000, 7));
  EXPECT_TRUE(bench.Run([&] {
    for (std::size_t i = 0; i < 3; ++i) {
      if (bench.received(i).size() < 50'000) return false;
    }
    return true;
  }));
  for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(bench.received(i) == Pattern(50'000, 7));
}

TEST(UringPortTest, ARingTooSmallForAllAtOnceLosesNothing) {
  UringTuning tuning;
  tuning.set_up = [](unsigned, io_uring* ring, io_uring_params* params) {
    params->cq_entries = 16;
    return io_uring_queue_init_params(8, ring, params);
  };
  constexpr std::size_t kConnections = 100;
  Bench bench(4096, tuning, kConnections);
  for (std::size_t i = 0; i < kConnections; ++i) {
    WriteAll(bench.client(i), Pattern(9000, static_cast<unsigned>(i)));
  }
  EXPECT_TRUE(bench.Run([&] {
    for (std::size_t i = 0; i < kConnections; ++i) {
      if (bench.received(i).size() < 9000) return false;
    }
    return true;
  }));
  for (std::size_t i = 0; i < kConnections; ++i) {
    EXPECT_TRUE(bench.received(i) == Pattern(9000, static_cast<unsigned>(i))) << i;
  }
}

TEST(UringPortTest, RefusedRingIsAnErrorOfOpen) {
  BufferPool* pool = BufferPool::Create(4096, 10);
  {
    PortOptions options;
    options.pool = pool;
    UringTuning tuning;
    tuning.set_up = [](unsigned, io_uring*, io_uring_params*) { return -EPERM; };
    UringPort port(options, tuning);
    const Error error = port.Open();
    EXPECT_EQ(error.kind, ErrorKind::kAccessDenied);
    EXPECT_EQ(error.code, EPERM);
  }
  pool->Close();
}

TEST(UringPortTest, IsAvailableHere) { EXPECT_EQ(kUringPortKind.why_unavailable(), ""); }

}  // namespace
}  // namespace iocp
