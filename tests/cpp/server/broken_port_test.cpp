// A server whose workers the system stops in the middle of their work: no call waits any more.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "support/backends.h"
#include "support/client.h"
#include "support/handlers.h"
#include "support/seccomp.h"

namespace iocp {
namespace {

using namespace std::chrono_literals;
using testing::AvailableBackends;
using testing::Client;
using testing::RecordingHandler;

class BrokenPortTest : public ::testing::TestWithParam<std::string> {
 protected:
  // Each worker breaks in the first hook that it calls for a client which has spoken.
  void Start(int workers) {
    handler_.on_read = [](Connection&, Buffer&) {
      thread_local const bool refused = testing::Refuse(testing::CallsThatWait());
      EXPECT_TRUE(refused);
    };
    Options options;
    options.backend = GetParam();
    options.port = 0;
    options.workers = workers;
    const Status status = server_.Start(options);
    ASSERT_TRUE(status.ok()) << status.message;
  }

  RecordingHandler handler_;
  Server server_{handler_};
};

TEST_P(BrokenPortTest, ConnectionsAreReportedClosedAndTheOperatorIsWarnedOnce) {
  for (const int workers : {1, 3}) {
    Start(workers);
    std::vector<Client> clients;
    for (int i = 0; i < 6; ++i) clients.emplace_back(server_.address());
    ASSERT_TRUE(handler_.WaitFor([&] { return handler_.records.size() == 6; }));
    for (const Client& client : clients) client.Send("go");
    ASSERT_TRUE(handler_.WaitFor([&] { return handler_.closed == 6; }));
    for (const auto& [id, record] : handler_.records) {
      EXPECT_EQ(record.error.code, EPERM);
      EXPECT_EQ(record.closed, CloseReason::kError);
    }
    ASSERT_TRUE(handler_.WaitFor([&] { return !handler_.warnings.empty(); }));
    const Address address = server_.address();
    const auto refused = [&address] {
      try {
        const Client newcomer(address);
        return false;
      } catch (const std::runtime_error&) {
        return true;
      }
    };
    EXPECT_TRUE(testing::Eventually(refused)) << "somebody listens, and nobody serves";

    const auto began = std::chrono::steady_clock::now();
    server_.Shutdown(1s);
    EXPECT_LT(std::chrono::steady_clock::now() - began, 10s);
    ASSERT_EQ(handler_.warnings.size(), 1U);
    EXPECT_NE(handler_.warnings[0].find("'" + GetParam() + "' has stopped working"),
              std::string::npos)
        << handler_.warnings[0];
    EXPECT_EQ(server_.stats().connections, 0U);
    EXPECT_EQ(server_.stats().buffers_in_use, 0U);

    // Its threads are gone, and their filters: the address is free, and a new run works.
    handler_.records.clear();
    handler_.warnings.clear();
    handler_.closed = 0;
    handler_.on_read = nullptr;
    Options options;
    options.backend = GetParam();
    options.port = address.port;
    const Status status = server_.Start(options);
    ASSERT_TRUE(status.ok()) << status.message;
    const Client client(server_.address());
    ASSERT_TRUE(handler_.WaitFor([&] { return handler_.records.size() == 1; }));
    server_.Shutdown(Duration::zero());
    handler_.records.clear();
    handler_.closed = 0;
  }
}

// It has nothing in flight that the port could end.
TEST_P(BrokenPortTest, AConnectionThatIsKeptOpenBehindItsEndIsReportedClosed) {
  handler_.on_end_of_stream = [](Connection&) { return EndOfStream::kKeepOpen; };
  Start(1);
  const Client ended(server_.address());
  ended.EndStream();
  ASSERT_TRUE(handler_.WaitFor(
      [&] { return handler_.records.size() == 1 && handler_.records.begin()->second.ended; }));
  const Client client(server_.address());
  client.Send("go");
  const auto began = std::chrono::steady_clock::now();
  ASSERT_TRUE(handler_.WaitFor([&] { return handler_.closed == 2; }));
  EXPECT_LT(std::chrono::steady_clock::now() - began, 1s);
  for (const auto& [id, record] : handler_.records) {
    EXPECT_EQ(record.error.code, EPERM);
    EXPECT_EQ(record.closed, CloseReason::kError);
  }
  server_.Shutdown(1s);
}

INSTANTIATE_TEST_SUITE_P(Ports, BrokenPortTest, ::testing::ValuesIn(AvailableBackends()),
                         [](const auto& backend) { return backend.param; });

}  // namespace
}  // namespace iocp
