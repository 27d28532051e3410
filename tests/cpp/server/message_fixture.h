// A server whose connections have a framing, on one of the ports of this system, with a hook for
// one message or for lists.
#pragma once

#include <functional>
#include <optional>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "server_fixture.h"
#include "support/framed.h"

namespace iocp::testing {

struct MessageParam {
  std::string backend;
  bool lists;
  int workers;

  [[nodiscard]] std::string name() const {
    return backend + (lists ? "_lists_" : "_one_by_one_") + std::to_string(workers) + "_workers";
  }
};
inline std::ostream& operator<<(std::ostream& out, const MessageParam& param) {
  return out << param.name();
}

class MessageTest : public ::testing::TestWithParam<MessageParam> {
 protected:
  void SetUp() override { handler_.hooks = kHookAll | (GetParam().lists ? kHookMessages : 0U); }
  [[nodiscard]] Options With(FramingPtr framing) const {
    Options options;
    options.backend = GetParam().backend;
    options.port = 0;
    options.workers = GetParam().workers;
    options.framing = std::move(framing);
    return options;
  }
  void Start(const Options& options) {
    const Status status = server_.Start(options);
    ASSERT_TRUE(status.ok()) << status.message;
  }
  // Whichever hook is wanted does this with each message.
  void OnEach(const std::function<void(Connection&, Message&)>& what) {
    handler_.on_message = what;
    handler_.on_messages = [what](Connection& connection, std::span<Message> messages) {
      for (Message& message : messages) what(connection, message);
    };
  }
  // Answers all messages of a call at once.
  void Echo() {
    handler_.on_message = [](Connection& connection, Message& message) {
      EXPECT_NE(connection.SendAsMessage(message.view()), SendResult::kBacklogFull);
    };
    handler_.on_messages = [](Connection& connection, std::span<Message> messages) {
      std::vector<SharedBytes> all;
      for (Message& message : messages) all.push_back({message.view().data(), message.size()});
      EXPECT_NE(connection.SendMessages(all), SendResult::kBacklogFull);
    };
  }
  bool WaitForMessages(std::size_t count) {
    return handler_.WaitFor([&] {
      std::size_t all = 0;
      for (const auto& [id, record] : handler_.records) all += record.messages.size();
      return all >= count;
    });
  }
  bool WaitForClosed(std::size_t count = 1) {
    return handler_.WaitFor([&] { return handler_.closed == count; });
  }
  // The only connection there was, as it is now.
  RecordingHandler::Record Only() {
    RecordingHandler::Record record;
    handler_.WaitFor([&] {
      EXPECT_EQ(handler_.records.size(), 1U);
      record = handler_.records.begin()->second;
      return true;
    });
    return record;
  }
  ConnectionPtr OnlyOpen() {
    EXPECT_TRUE(handler_.WaitFor([&] { return handler_.records.size() == 1; }));
    return server_.connections().front();
  }

  RecordingHandler handler_;
  Server server_{handler_};
};

// `only`: those of one of the two hooks.
inline std::vector<MessageParam> MessageParams(std::optional<bool> only = {}) {
  std::vector<MessageParam> params;
  for (const std::string& backend : AvailableBackends()) {
    for (const bool lists : {false, true}) {
      if (only && *only != lists) continue;
      for (const int workers : {1, 3}) params.push_back({backend, lists, workers});
    }
  }
  return params;
}

}  // namespace iocp::testing
