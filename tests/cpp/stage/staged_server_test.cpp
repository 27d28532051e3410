// Stages on the real ports of this system, with real threads: an engine whose connections have one
// scrambler, or two, and clients that speak as they do.
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "port/loopback.h"
#include "support/backends.h"
#include "support/framed.h"
#include "support/handlers.h"
#include "support/scrambler.h"

namespace iocp::testing {
namespace {

using namespace std::chrono_literals;

struct Param {
  std::string backend;
  std::size_t stages;
  int workers;

  [[nodiscard]] std::string name() const {
    return backend + "_" + std::to_string(stages) + "_stages_" + std::to_string(workers) +
           "_workers";
  }
};
std::ostream& operator<<(std::ostream& out, const Param& param) { return out << param.name(); }

const PortKind& KindNamed(const std::string& name) {
  const PortKinds kinds = BuiltInPortKinds();
  std::size_t i = 0;
  while (kinds.first[i]->name != name) ++i;
  return *kinds.first[i];
}

// A client, and the bytes that it has got.
struct ScrambledClient {
  std::unique_ptr<Peer> peer;
  // Its ends of the stages: next to the wire, and next to the test. They belong to `peer`.
  ScrambledPeer* bottom = nullptr;
  ScrambledPeer* top = nullptr;
  std::string received;
  std::size_t sent = 0;

  // Moves bytes both ways until `until` holds; false when that takes too long.
  template <typename Until>
  bool Run(const std::string& data, Until until) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!until()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      if (sent < data.size()) sent += peer->Send(std::string_view(data).substr(sent, 5000));
      const std::string more = peer->Receive(65'536);
      received += more;
      if (more.empty()) std::this_thread::yield();
    }
    return true;
  }
  [[nodiscard]] bool ended() const { return peer->state() != Peer::State::kOpen; }
};

class StagedServerTest : public ::testing::TestWithParam<Param> {
 protected:
  void SetUp() override {
    Options options;
    options.workers = GetParam().workers;
    options.first_data_timeout.reset();
    engine_ = std::make_unique<Engine>(handler_, options, KindNamed(GetParam().backend),
                                       [] { return Scramblers(GetParam().stages); });
    ListenOptions listen;
    listen.host = "127.0.0.1";
    const Status status = engine_->Listen(listen);
    ASSERT_TRUE(status.ok()) << status.message;
    handler_.on_read = [](Connection& connection, Buffer& buffer) {
      EXPECT_EQ(connection.Send(buffer.data(), buffer.size()), SendResult::kAccepted);
    };
    // Each port is opened by its worker, on the worker's thread.
    for (std::size_t i = 0; i < engine_->worker_count(); ++i) {
      workers_.emplace_back([this, i] {
        EXPECT_FALSE(engine_->worker(i).Open());
        engine_->worker(i).Run();
      });
    }
  }
  void TearDown() override {
    engine_->RequestStop(engine_->Now() + 5s);
    for (std::thread& worker : workers_) worker.join();
    EXPECT_EQ(engine_->connection_count(), 0U);
  }

  ScrambledClient Connect() {
    ScrambledClient client;
    auto wire =
        std::make_unique<LoopbackPeer>(engine_->listeners().front()->address(), kNoClientSocket);
    EXPECT_TRUE(wire->connected());
    client.peer = std::move(wire);
    for (std::size_t i = 0; i < GetParam().stages; ++i) {
      auto stage = std::make_unique<ScrambledPeer>(std::move(client.peer));
      client.top = stage.get();
      if (client.bottom == nullptr) client.bottom = stage.get();
      client.peer = std::move(stage);
    }
    return client;
  }
  // The only connection that was established.
  RecordingHandler::Record Only() {
    EXPECT_TRUE(handler_.WaitFor([&] { return handler_.closed == 1; }));
    return handler_.records.begin()->second;
  }

  RecordingHandler handler_;
  std::unique_ptr<Engine> engine_;
  std::vector<std::thread> workers_;
};

TEST_P(StagedServerTest, ManyClientsEchoAndEndInOrder) {
  constexpr std::size_t kClients = 32;
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kClients; ++i) {
    threads.emplace_back([this, i] {
      // The last byte waits in the stage until the end of the stream.
      const std::string data = Pattern(1000 * (i + 1), static_cast<std::uint32_t>(i));
      ScrambledClient client = Connect();
      EXPECT_TRUE(client.Run(data, [&] { return client.sent == data.size(); }));
      client.peer->EndStream();
      EXPECT_TRUE(client.Run(data, [&] { return client.ended(); }));
      EXPECT_EQ(client.peer->state(), Peer::State::kEnded);
      EXPECT_TRUE(client.top->ended_in_order());
      EXPECT_TRUE(IsSame(client.received, data));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(handler_.WaitFor([&] { return handler_.closed == kClients; }));
  for (const auto& [id, record] : handler_.records) {
    EXPECT_EQ(record.closed, CloseReason::kPeerClosed);
  }
}

TEST_P(StagedServerTest, AnAnswerBehindTheEndOfTheStreamArrives) {
  const std::string answer = Pattern(300'000, 7);
  handler_.on_read = nullptr;
  handler_.on_end_of_stream = [&](Connection& connection) {
    EXPECT_EQ(connection.Send(answer.data(), answer.size()), SendResult::kAccepted);
    connection.Close();
    return EndOfStream::kKeepOpen;
  };
  ScrambledClient client = Connect();
  const std::string question = "how much";
  ASSERT_TRUE(client.Run(question, [&] { return client.sent == question.size(); }));
  client.peer->EndStream();
  ASSERT_TRUE(client.Run(question, [&] { return client.ended(); }));
  EXPECT_TRUE(client.top->ended_in_order());
  EXPECT_TRUE(IsSame(client.received, answer));
  const RecordingHandler::Record record = Only();
  EXPECT_EQ(record.closed, CloseReason::kLocalClose)
      << static_cast<int>(record.error.kind) << " " << record.error.code;
}

TEST_P(StagedServerTest, WhatBreaksAStageIsReportedBehindTheDataBeforeIt) {
  for (const bool poison : {true, false}) {
    ScrambledClient client = Connect();
    const std::string data = Pattern(2000, 3);
    ASSERT_TRUE(client.Run(data, [&] { return client.received.size() + 1 >= data.size(); }));
    if (poison) {
      client.bottom->Poison();
    } else {
      client.bottom->Truncate();
    }
    ASSERT_TRUE(client.Run(data, [&] { return client.ended(); }));
    EXPECT_FALSE(client.top->ended_in_order());
    const std::size_t ended = poison ? 1 : 2;
    ASSERT_TRUE(handler_.WaitFor([&] { return handler_.closed == ended; }));
    const RecordingHandler::Record& record = handler_.records.rbegin()->second;
    EXPECT_EQ(record.closed, CloseReason::kError);
    EXPECT_EQ(record.error.code, poison ? Scrambling::kPoisoned : Scrambling::kTruncated);
    EXPECT_TRUE(IsPrefix(record.received, data));
  }
}

TEST_P(StagedServerTest, MessagesAreCutFromWhatTheStagesPassOn) {
  handler_.on_established = [](Connection& connection) { connection.SetFraming(LengthPrefix()); };
  handler_.on_message = [](Connection& connection, Message& message) {
    EXPECT_EQ(connection.SendAsMessage(message.view()), SendResult::kAccepted);
  };
  std::vector<std::string> messages{Pattern(100'000, 1), ""};
  for (std::uint32_t i = 0; i < 50; ++i) messages.push_back(Pattern(i * 37 % 500, i));
  const std::string wire = AllEncoded(*LengthPrefix(), messages);
  ScrambledClient client = Connect();
  ASSERT_TRUE(client.Run(wire, [&] { return client.sent == wire.size(); }));
  client.peer->EndStream();
  ASSERT_TRUE(client.Run(wire, [&] { return client.ended(); }));
  EXPECT_TRUE(client.top->ended_in_order());
  EXPECT_TRUE(IsSame(client.received, wire));
  const RecordingHandler::Record record = Only();
  EXPECT_TRUE(record.messages == messages);
  EXPECT_EQ(record.closed, CloseReason::kPeerClosed);
}

TEST_P(StagedServerTest, AStreamOfAStageThatEndsInsideAMessageIsAFault) {
  handler_.on_established = [](Connection& connection) { connection.SetFraming(Netstring()); };
  ScrambledClient client = Connect();
  const std::string wire = "1:a,5:hell";
  ASSERT_TRUE(client.Run(wire, [&] { return client.sent == wire.size(); }));
  client.peer->EndStream();
  ASSERT_TRUE(client.Run(wire, [&] { return client.ended(); }));
  const RecordingHandler::Record record = Only();
  EXPECT_EQ(record.messages, std::vector<std::string>{"a"});
  EXPECT_EQ(record.fault.kind, FrameFault::Kind::kTruncated);
  EXPECT_EQ(record.closed, CloseReason::kFrameError);
}

std::vector<Param> Params() {
  std::vector<Param> params;
  for (const std::string& backend : AvailableBackends()) {
    for (const std::size_t stages : {1U, 2U}) {
      for (const int workers : {1, 4}) params.push_back({backend, stages, workers});
    }
  }
  return params;
}

INSTANTIATE_TEST_SUITE_P(Ports, StagedServerTest, ::testing::ValuesIn(Params()),
                         [](const auto& param) { return param.param.name(); });

}  // namespace
}  // namespace iocp::testing
