// The Windows port without memory: an operation that needs some fails, and nothing else.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "port/iocp/iocp_port.h"
#include "support/client.h"
#include "support/no_memory.h"

namespace iocp::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// A port with a listener, which accepts one client ahead, and keeps no memory for reuse.
class IocpMemoryTest : public ::testing::Test {
 protected:
  void Open(int initial_reads) {
    PortOptions options;
    options.pool = pool_;
    options.initial_accepts = 1;
    options.initial_reads = initial_reads;
    port_ = kIocpPortKind.create(options);
    ASSERT_FALSE(port_->Open());
    ListenOptions listen;
    listen.host = "127.0.0.1";
    ASSERT_TRUE(kIocpPortKind.listen(listen, &listener_.handle, &bound_).ok());
    ASSERT_FALSE(port_->Accept(listener_));
  }
  void TearDown() override {
    for (Socket& socket : sockets_) {
      if (socket.handle == kNoSocket) continue;
      port_->Cancel(socket);
      while (!Next().last) {
      }
      port_->Close(socket, true);
    }
    port_->Cancel(listener_);
    while (!Next().last) {
    }
    const NativeSocket listening = listener_.handle;
    port_->Close(listener_, false);
    kIocpPortKind.close_listener(listening);
    port_.reset();
    pool_->Close();
  }
  // When none came in time: an error that no port reports.
  Completion Next() {
    Completion completion;
    completion.error = {ErrorKind::kInvalidArgument, 0};
    const TimePoint patience = port_->Now() + seconds(20);
    while (port_->Wait(&completion, 1, kBatchBytes, patience) == 0 && port_->Now() < patience) {
    }
    return completion;
  }
  NativeSocket NextAccepted() {
    const Completion completion = Next();
    EXPECT_EQ(completion.operation, Operation::kAccept);
    EXPECT_EQ(completion.error.kind, ErrorKind::kNone);
    return completion.accepted;
  }

  BufferPool* pool_ = BufferPool::Create(4096, 0);
  std::unique_ptr<CompletionPort> port_;
  Address bound_;
  Address local_;
  Address remote_;
  Socket listener_;
  std::vector<Socket> sockets_ = std::vector<Socket>(1);
};

TEST_F(IocpMemoryTest, AClientIsAcceptedAndOneThatCannotBeAdoptedCostsNoOther) {
  ASSERT_NO_FATAL_FAILURE(Open(4));
  const Client refused(bound_);
  NativeSocket handle = kNoSocket;
  {
    const NoMemory none;
    handle = NextAccepted();
    EXPECT_EQ(port_->Adopt(sockets_[0], handle, &local_, &remote_).kind,
              ErrorKind::kOutOfResources);
    port_->Discard(handle, true);
  }
  const Client served(bound_);
  {
    const NoMemory none;
    handle = NextAccepted();
  }
  ASSERT_FALSE(port_->Adopt(sockets_[0], handle, &local_, &remote_));
  EXPECT_EQ(local_.port, bound_.port);
  EXPECT_EQ(remote_.Host(), "127.0.0.1");
  port_->Receive(sockets_[0]);
  ASSERT_TRUE(served.Send("at last"));
  EXPECT_EQ(Next().buffer.view(), "at last");
}

// A client that finds no accept makes the port post more of them.
TEST_F(IocpMemoryTest, AcceptsThatCannotBeMadePauseAcceptingUntilResume) {
  ASSERT_NO_FATAL_FAILURE(Open(4));
  std::vector<Client> clients;
  for (int i = 0; i < 3; ++i) clients.emplace_back(bound_);
  std::size_t accepted = 0;
  const auto take = [&](const Completion& completion) {
    ASSERT_EQ(completion.error.kind, ErrorKind::kNone);
    port_->Discard(completion.accepted, true);
    ++accepted;
  };
  {
    const NoMemory none;
    Completion completion = Next();
    for (; !completion.error; completion = Next()) take(completion);
    EXPECT_EQ(completion.error.kind, ErrorKind::kOutOfResources);
  }
  port_->Resume(listener_);
  clients.emplace_back(bound_);
  while (accepted < clients.size()) ASSERT_NO_FATAL_FAILURE(take(Next()));
}

TEST_F(IocpMemoryTest, BytesThatFindNoMemoryWaitAndWaitReturnsInTime) {
  ASSERT_NO_FATAL_FAILURE(Open(0));
  const Client client(bound_);
  ASSERT_FALSE(port_->Adopt(sockets_[0], NextAccepted(), &local_, &remote_));
  ASSERT_TRUE(client.Send("patience"));
  // Should Wait not return, the memory that comes back makes it.
  std::atomic<bool> over{false};
  std::thread rescuer([&over] {
    for (int i = 0; i < 200 && !over; ++i) std::this_thread::sleep_for(milliseconds(10));
    NoMemory::End();
  });
  const TimePoint began = port_->Now();
  {
    const NoMemory none;
    port_->Receive(sockets_[0]);
    Completion completion;
    while (port_->Now() < began + milliseconds(100)) {
      EXPECT_EQ(port_->Wait(&completion, 1, kBatchBytes, began + milliseconds(100)), 0U);
    }
    EXPECT_LT(port_->Now(), began + seconds(1));
  }
  over = true;
  rescuer.join();
  EXPECT_EQ(Next().buffer.view(), "patience");
}

}  // namespace
}  // namespace iocp::testing
