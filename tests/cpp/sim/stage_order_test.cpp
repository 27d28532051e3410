// What stages do between a connection's bytes and its hooks, one order of events each.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "scenario.h"
#include "support/scrambler.h"

namespace iocp::sim {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ScrambledPeer;
using testing::Scrambling;
using State = Peer::State;
using enum SendResult;

// Passes on what is received, and sends nothing.
class Silent : public Stage {
 public:
  Error Begin(Output&) override { return {}; }
  Error Receive(Buffer bytes, Output& output) override {
    output.Up(std::move(bytes));
    return {};
  }
  Error EndReceive(Output&) override { return {}; }
  Error Send(const Piece*, std::size_t, std::size_t*, Output&) override { return {}; }
  Error EndSend(Output&) override { return {}; }
  [[nodiscard]] bool ready() const override { return true; }
};

// Answers each byte with a KiB.
class Chatterbox final : public Silent {
 public:
  Error Receive(Buffer bytes, Output& output) override {
    const std::string answer(1024, 'y');
    for (std::size_t i = 0; i < bytes.size(); ++i) output.Down(answer.data(), answer.size());
    return Silent::Receive(std::move(bytes), output);
  }
};

// Sends by itself, at once, and not so much that the peer is not read from.
class Talker final : public Silent {
 public:
  static constexpr std::size_t kBytes = StageStack::kMostAhead * 3 / 4;

  Error Begin(Output& output) override {
    const std::string speech(kBytes, 't');
    output.Down(speech.data(), speech.size());
    return {};
  }
};

// Sends everything twice, so that its output is full before it has taken all.
class Doubler final : public Silent {
 public:
  Error Send(const Piece* pieces, std::size_t count, std::size_t* taken, Output& output) override {
    EXPECT_GT(count, 0U);
    *taken = std::min<std::size_t>(pieces->size, 10'000);
    for (int i = 0; i < 2; ++i) output.Down(pieces->data, *taken);
    return {};
  }
};

class StageTest : public ScenarioTest {
 protected:
  static Scenario::Setup With(std::size_t count) {
    Scenario::Setup setup;
    setup.stages = [count] { return testing::Scramblers(count); };
    return setup;
  }
  // Greets at once.
  static std::unique_ptr<ScrambledPeer> Connect(Scenario& scenario) {
    auto client = std::make_unique<ScrambledPeer>(scenario.Dial());
    scenario.StepAll();
    return client;
  }
  static bool Knows(Scenario& scenario, const Peer& client) {
    const auto& records = scenario.handler().records;
    return std::any_of(records.begin(), records.end(), [&](const auto& entry) {
      return entry.second.remote.port == client.port();
    });
  }
  static RecordingHandler::Record& Of(Scenario& scenario, const Peer& client) {
    auto& records = scenario.handler().records;
    return std::find_if(
               records.begin(), records.end(),
               [&](const auto& entry) { return entry.second.remote.port == client.port(); })
        ->second;
  }
  // All until the stream ends, for a second at most.
  static std::string ReceiveAll(Scenario& scenario, Peer& client) {
    std::string data;
    for (int i = 0; i < 100 && client.state() == State::kOpen; ++i) {
      data += client.Receive(1'000'000);
      scenario.PassTime(milliseconds(10));
    }
    return data;
  }
};

TEST_F(StageTest, EstablishedWaitsUntilTheStagesAreReady) {
  Scenario scenario(With(1));
  const auto client = scenario.Dial();
  scenario.StepAll();
  EXPECT_FALSE(Knows(scenario, *client));
  EXPECT_EQ(client->Receive(100), Scrambling::kServerGreeting);
  client->Send(Scrambling::kClientGreeting);
  scenario.StepAll();
  EXPECT_TRUE(Knows(scenario, *client));
}

// The lower stage holds back what makes the upper one ready, until it sends.
TEST_F(StageTest, AStageThatBecomesReadyInASendIsSeenAtOnce) {
  Scenario scenario(With(2));
  const auto client = scenario.Dial();
  const std::string upper = Scrambling::Encode(Scrambling::kClientGreeting);
  client->Send(std::string(Scrambling::kClientGreeting) + upper);
  scenario.StepAll();
  EXPECT_TRUE(Knows(scenario, *client));
}

// Handshakes take long: in each turn a few of them go on, those first that have waited longest.
TEST_F(StageTest, AFewHandshakesGoOnInEachTurn) {
  constexpr std::size_t kClients = 11;
  Scenario scenario(With(1));
  std::vector<std::unique_ptr<Peer>> clients;
  for (std::size_t i = 0; i < kClients; ++i) clients.push_back(scenario.Dial());
  scenario.StepAll();
  for (auto& client : clients) client->Send(Scrambling::kClientGreeting);
  const auto known = [&] {
    std::string which;
    for (auto& client : clients) which += Knows(scenario, *client) ? 'x' : '.';
    return which;
  };
  scenario.Step(0);
  EXPECT_EQ(known(), "xxxx.......");
  clients[10]->Send("behind what waits");
  scenario.Step(0);
  EXPECT_EQ(known(), "xxxxxxxx...");
  scenario.Step(0);
  EXPECT_EQ(known(), "xxxxxxxxxxx");
  scenario.StepAll();
  EXPECT_EQ(Of(scenario, *clients[10]).received.size(), 16U) << "the last byte waits in the stage";
}

// Bytes that wait for their turn go with their connection.
TEST_F(StageTest, AClientThatLeavesWhileItsHandshakeWaitsIsForgotten) {
  Scenario scenario(With(1));
  std::vector<std::unique_ptr<Peer>> clients;
  for (std::size_t i = 0; i < 9; ++i) clients.push_back(scenario.Dial());
  scenario.StepAll();
  for (auto& client : clients) client->Send(Scrambling::kClientGreeting);
  scenario.Step(0);
  clients[8]->Reset();
  clients[7]->EndStream();
  scenario.StepAll();
  EXPECT_FALSE(Knows(scenario, *clients[8]));
  EXPECT_TRUE(Knows(scenario, *clients[7]));
}

TEST_F(StageTest, AServerThatListensFirstIsEstablishedWithTheFirstData) {
  Scenario::Setup setup = With(1);
  setup.options.established_on = EstablishedOn::kFirstData;
  Scenario scenario(setup);
  const auto client = Connect(scenario);
  EXPECT_FALSE(Knows(scenario, *client));
  client->Send("ab");
  scenario.StepAll();
  EXPECT_TRUE(Knows(scenario, *client));
}

TEST_F(StageTest, BytesAreChangedBothWaysAndTheEndIsInOrder) {
  for (const std::size_t count : {1U, 2U}) {
    Scenario scenario(With(count));
    scenario.handler().on_read = [](Connection& connection, Buffer& buffer) {
      EXPECT_EQ(connection.Send(buffer.data(), buffer.size()), kAccepted);
    };
    std::unique_ptr<Peer> client = scenario.Dial();
    for (std::size_t i = 0; i < count; ++i) {
      client = std::make_unique<ScrambledPeer>(std::move(client));
    }
    std::string sent;
    for (int i = 0; i < 3000; ++i) sent += static_cast<char>(i * 7);
    std::string got;
    for (std::size_t at = 0; at < sent.size();) {
      at += client->Send(std::string_view(sent).substr(at, 100));
      scenario.StepAll();
      got += client->Receive(1'000'000);
    }
    client->EndStream();
    got += ReceiveAll(scenario, *client);
    EXPECT_EQ(got, sent);
    EXPECT_EQ(client->state(), State::kEnded);
    EXPECT_EQ(Of(scenario, *client).closed, CloseReason::kPeerClosed);
  }
}

TEST_F(StageTest, ASendIsToldOfWhenTheSystemHasItsWireBytes) {
  Scenario::Setup setup = With(1);
  setup.window = 10;
  Scenario scenario(setup);
  const auto client = Connect(scenario);
  ASSERT_EQ(client->Receive(100), "");  // the greeting
  RecordingHandler::Record& record = Of(scenario, *client);
  ASSERT_NE(record.connection, nullptr);
  for (const std::string_view piece : {"", "0123456789", "", "abc"}) {
    EXPECT_EQ(record.connection->Send(piece.data(), piece.size()), kAccepted);
  }
  EXPECT_EQ(record.connection->send_backlog(), 13U);
  scenario.StepAll();
  // They were taken as one, and a part of it is out.
  EXPECT_EQ(record.written, (std::vector<std::size_t>{0}));
  EXPECT_EQ(record.connection->send_backlog(), 13U);
  std::string got = client->Receive(100);
  scenario.StepAll();
  EXPECT_EQ(record.written, (std::vector<std::size_t>{0, 10, 0, 3}));
  EXPECT_EQ(record.connection->send_backlog(), 0U);
  got += client->Receive(100);
  EXPECT_EQ(got, "0123456789abc");
}

TEST_F(StageTest, CloseAddsTheStagesEnd) {
  Scenario scenario(With(1));
  const auto client = Connect(scenario);
  RecordingHandler::Record& record = Of(scenario, *client);
  EXPECT_EQ(record.connection->Send("last", 4), kAccepted);
  record.connection->Close();
  EXPECT_EQ(ReceiveAll(scenario, *client), "last");
  EXPECT_TRUE(client->ended_in_order());
  EXPECT_EQ(client->state(), State::kEnded);
}

TEST_F(StageTest, AnAbortGoesWithoutTheEnd) {
  Scenario scenario(With(1));
  const auto client = Connect(scenario);
  Of(scenario, *client).connection->Abort();
  ReceiveAll(scenario, *client);
  EXPECT_FALSE(client->ended_in_order());
  EXPECT_EQ(client->state(), State::kReset);
}

TEST_F(StageTest, AShutdownDoesNotWaitForAStageToBeReady) {
  Scenario::Setup setup = With(1);
  setup.options.close_timeout = seconds(60);
  Scenario scenario(setup);
  const auto client = scenario.Dial();  // never ends its stream
  scenario.StepAll();
  scenario.RequestStop(seconds(60));
  scenario.PassTime(milliseconds(20));
  EXPECT_TRUE(scenario.all_left());
}

TEST_F(StageTest, ATruncatedStreamIsAnErrorBehindItsData) {
  Scenario scenario(With(1));
  const auto client = Connect(scenario);
  client->Send("all of it");
  client->Truncate();
  scenario.PassTime(milliseconds(10));
  const RecordingHandler::Record& record = Of(scenario, *client);
  EXPECT_EQ(record.received, "all of it");
  EXPECT_EQ(record.error.code, Scrambling::kTruncated);
  EXPECT_EQ(record.closed, CloseReason::kError);
}

TEST_F(StageTest, AnErrorComesBehindTheDataAndThePeerGetsAReset) {
  Scenario scenario(With(1));
  const auto client = Connect(scenario);
  client->Send("before");
  client->Poison();
  ReceiveAll(scenario, *client);
  const RecordingHandler::Record& record = Of(scenario, *client);
  EXPECT_EQ(record.received, "before");
  EXPECT_EQ(record.error.code, Scrambling::kPoisoned);
  EXPECT_EQ(record.closed, CloseReason::kError);
  EXPECT_EQ(client->state(), State::kReset);
}

TEST_F(StageTest, AnErrorWhileTheConnectionIsClosedResetsIt) {
  Scenario::Setup setup = With(1);
  setup.window = 10;
  Scenario scenario(setup);
  const auto client = Connect(scenario);
  RecordingHandler::Record& record = Of(scenario, *client);
  const std::string much(1000, 'x');
  EXPECT_EQ(record.connection->Send(much.data(), much.size()), kAccepted);
  record.connection->Close();
  scenario.StepAll();
  client->Poison();
  scenario.StepAll();
  EXPECT_EQ(record.closed, CloseReason::kError);
  EXPECT_EQ(record.error.code, Scrambling::kPoisoned);
}

// The client ends the stage's stream alone: what follows it on the wire means nothing.
TEST_F(StageTest, TheWireMayGoOnBehindTheEndOfTheStream) {
  Scenario::Setup setup = With(1);
  setup.options.close_timeout = seconds(60);
  Scenario scenario(setup);
  const auto client = scenario.Dial();
  client->Send(std::string(Scrambling::kClientGreeting) + Scrambling::Encode("data") +
               Scrambling::Sign(Scrambling::kEnd) + "garbage");
  scenario.StepAll();
  const RecordingHandler::Record& record = scenario.Of(client);
  EXPECT_EQ(record.received, "data");
  EXPECT_FALSE(record.closed) << "it lingers until the wire has ended";
  client->EndStream();
  scenario.StepAll();
  EXPECT_EQ(record.closed, CloseReason::kPeerClosed);
}

// Pauses the reading, and never holds more than one receive makes beyond the bound.
TEST_F(StageTest, AStageThatAnswersMuchIsNotReadFromUntilThePeerReads) {
  Scenario::Setup setup;
  setup.stages = [] {
    std::vector<std::unique_ptr<Stage>> stages;
    stages.push_back(std::make_unique<Chatterbox>());
    return stages;
  };
  setup.window = 1000;
  Scenario scenario(setup);
  const auto client = scenario.Connect();
  const StageStack* const stages = Session::Of(scenario.ConnectionOf(client)).outbound().stages();
  std::size_t sent = 0;
  std::size_t most = 0;
  for (int i = 0; i < 1000; ++i) {
    sent += client->Send(std::string(100, 'x'));
    scenario.StepAll();
    most = std::max(most, stages->waiting());
  }
  EXPECT_LT(sent, 5000U);
  EXPECT_LE(most, StageStack::kMostAhead + 2 * setup.window * 1024);
  std::size_t got = 0;
  for (int i = 0; i < 100'000 && got < sent * 1024; ++i) {
    got += client->Receive(1'000'000).size();
    scenario.StepAll();
  }
  EXPECT_EQ(got, sent * 1024);
  EXPECT_EQ(scenario.Of(client).received.size(), sent);
}

// The system takes all that it is given, so nothing but the end of each send brings on the next.
TEST_F(StageTest, WhatAnUpperStageHasSentGoesOnWhenASendHasEnded) {
  Scenario::Setup setup;
  setup.stages = [] {
    std::vector<std::unique_ptr<Stage>> stages;
    stages.push_back(std::make_unique<Doubler>());
    stages.push_back(std::make_unique<Talker>());
    return stages;
  };
  setup.window = 10 * Talker::kBytes;
  Scenario scenario(setup);
  const auto client = scenario.Connect();
  EXPECT_EQ(client->Receive(setup.window).size(), 2 * Talker::kBytes);
}

TEST_F(StageTest, ASilentClientOfAStageIsClosedInTime) {
  Scenario::Setup setup = With(1);
  setup.options.first_data_timeout = seconds(1);
  Scenario scenario(setup);
  const auto client = Connect(scenario);
  scenario.PassTime(seconds(2));
  EXPECT_EQ(Of(scenario, *client).closed, CloseReason::kFirstDataTimeout);
}

}  // namespace
}  // namespace iocp::sim
