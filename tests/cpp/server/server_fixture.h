// A server on one of the ports of this system, with a handler that records.
#pragma once

#include <gtest/gtest.h>
#include <iocp/iocp.h>

#include <string>

#include "port/world.h"
#include "support/backends.h"
#include "support/client.h"
#include "support/handlers.h"

namespace iocp::testing {

// Ends the hooks before what they refer to goes out of scope.
struct Stopper {
  Server& server;
  ~Stopper() { server.Shutdown(Duration::zero()); }
};

// A back-end's name is the parameter.
template <class RecordingKind>
class ServerTestWith : public ::testing::TestWithParam<std::string> {
 protected:
  Options On(int workers = 1) {
    Options options;
    options.backend = GetParam();
    options.port = 0;
    options.workers = workers;
    return options;
  }
  void Start(const Options& options) {
    const Status status = server_.Start(options);
    ASSERT_TRUE(status.ok()) << status.message;
  }
  void StartEcho(const Options& options) {
    handler_.on_read = [](Connection& connection, Buffer& buffer) {
      // It may be closing by now; but flow control keeps the backlog below its limit.
      EXPECT_NE(connection.Send(buffer.data(), buffer.size()), SendResult::kBacklogFull);
    };
    Start(options);
  }
  // The record of the one connection there was.
  RecordingHandler::Record& Only() {
    EXPECT_EQ(handler_.records.size(), 1U);
    return handler_.records.begin()->second;
  }
  bool WaitForClosed(std::size_t count = 1) {
    return handler_.WaitFor([&] { return handler_.closed == count; });
  }

  RecordingKind handler_;
  Server server_{handler_};
};

using ServerTest = ServerTestWith<RecordingHandler>;

}  // namespace iocp::testing
