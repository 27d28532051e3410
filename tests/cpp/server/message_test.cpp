// Messages on the real ports of this system: what arrives, what a hook may do with it, and how a
// connection ends whose peer sends none.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "message_fixture.h"

namespace iocp::testing {
namespace {

using namespace std::chrono_literals;
using namespace std::string_literals;
using Messages = std::vector<std::string>;
using Kind = FrameFault::Kind;

class OneMessageTest : public MessageTest {};
class MessageListTest : public MessageTest {};

// Messages of all sizes: small ones, empty ones, one that needs several receives.
Messages Mixed(unsigned seed) {
  Messages messages{Pattern(1, seed), "", Pattern(200'000, seed + 1)};
  for (unsigned i = 0; i < 300; ++i) messages.push_back(Pattern(i * i % 997, seed + i));
  messages.push_back(Pattern(40'000, seed));
  return messages;
}

TEST_P(MessageTest, MessagesOfAnySizeAreEchoed) {
  Echo();
  Start(With(LengthPrefix()));
  const Stopper stopper{server_};
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (unsigned t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      const Client client(server_.address());
      const std::string wire = AllEncoded(*LengthPrefix(), Mixed(t));
      std::thread sender([&] { client.Send(wire); });
      if (client.Receive(wire.size()) == wire) ++right;
      sender.join();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 6);
  EXPECT_EQ(server_.stats().messages, 6 * Mixed(0).size());
  for (unsigned t = 0; t < 6; ++t) {
    const Messages sent = Mixed(t);
    handler_.WaitFor([&] {
      int same = 0;
      for (const auto& [id, record] : handler_.records) same += record.messages == sent ? 1 : 0;
      EXPECT_EQ(same, 1);
      return true;
    });
  }
}

TEST_P(MessageTest, EachFramingIsEchoed) {
  const Messages texts{"a", "hello", std::string(5000, 'x'), "the end"};
  for (const FramingPtr& framing :
       {LengthPrefix(), Delimiter({"\r\n", "\n"}), VarintPrefix(), Netstring(), Cobs(), Slip()}) {
    RecordingHandler handler;
    handler.hooks = handler_.hooks;
    Echo();
    handler.on_message = handler_.on_message;
    handler.on_messages = handler_.on_messages;
    Server server(handler);
    ASSERT_TRUE(server.Start(With(framing)).ok());
    const Stopper stopper{server};
    const Client client(server.address());
    const std::string wire = AllEncoded(*framing, texts);
    client.Send(wire);
    EXPECT_EQ(client.Receive(wire.size()), wire);
    client.EndStream();
    EXPECT_EQ(client.WaitForEnd(), 0);
    ASSERT_TRUE(handler.WaitFor([&] { return handler.closed == 1; }));
    EXPECT_EQ(handler.records.begin()->second.closed, CloseReason::kPeerClosed);
    EXPECT_EQ(handler.records.begin()->second.messages, texts);
  }
}

TEST_P(MessageListTest, AListHasWhatIsCompleteAndAtMost4096) {
  Start(With(FixedSize(1)));
  const Stopper stopper{server_};
  const Client client(server_.address());
  client.Send(std::string(50'000, 'x'));
  ASSERT_TRUE(WaitForMessages(50'000));
  std::size_t all = 0;
  std::size_t largest = 0;
  for (const std::size_t count : Only().lists) {
    all += count;
    largest = std::max(largest, count);
  }
  EXPECT_EQ(all, 50'000U);
  EXPECT_LE(largest, 4096U);
  EXPECT_GT(largest, 1U);
}

// ---- A hook that keeps what it gets.

TEST_P(MessageTest, SharedMessagesMayBeKeptAndSentElsewhere) {
  std::mutex mutex;
  std::vector<Buffer> kept;
  OnEach([&](Connection&, Message& message) {
    const std::lock_guard lock(mutex);
    kept.push_back(message.Share());
  });
  Start(With(LengthPrefix()));
  const Messages sent = Mixed(3);
  {
    const Stopper stopper{server_};
    const Client client(server_.address());
    client.Send(AllEncoded(*LengthPrefix(), sent));
    ASSERT_TRUE(WaitForMessages(sent.size()));
    std::string expected;
    const ConnectionPtr connection = OnlyOpen();
    for (std::size_t i = 0; i < 20; ++i) {
      const std::lock_guard lock(mutex);
      expected += kept[i].view();
      EXPECT_EQ(connection->Send(kept[i]), SendResult::kAccepted);
    }
    EXPECT_EQ(client.Receive(expected.size()), expected);
  }
  for (std::size_t i = 20; i < sent.size(); ++i) {
    EXPECT_EQ(kept[i].view(), sent[i]) << "they outlive the server";
  }
}

// ---- Another framing.

// Lines, each of which says how many bytes follow it.
TEST_P(OneMessageTest, TheNextMessageIsCutByTheFramingThatAHookHasSet) {
  const FramingPtr lines = Delimiter({"\r\n"});
  handler_.on_message = [&](Connection& connection, Message& message) {
    if (connection.framing() == lines) {
      connection.SetFraming(FixedSize(std::stoul(std::string(message.view()))));
    } else {
      connection.SetFraming(lines);
    }
  };
  Start(With(lines));
  const Stopper stopper{server_};
  const Client client(server_.address());
  std::string wire;
  Messages expected;
  for (std::size_t i = 1; i < 400; ++i) {
    const std::string body = Pattern(i * i * i % 3001 + 1, static_cast<unsigned>(i));
    expected.push_back(std::to_string(body.size()));
    expected.push_back(body);
    wire += expected[expected.size() - 2] + "\r\n" + body;
  }
  client.Send(wire);
  ASSERT_TRUE(WaitForMessages(expected.size()));
  EXPECT_TRUE(Only().messages == expected);
}

TEST_P(MessageListTest, TheNextListIsCutByTheFramingThatAHookHasSet) {
  handler_.on_messages = [&](Connection& connection, std::span<Message> messages) {
    if (messages.back().view() == "go") connection.SetFraming(FixedSize(2));
  };
  Start(With(Delimiter({"\n"})));
  const Stopper stopper{server_};
  const Client client(server_.address());
  client.Send("a\ngo\n");
  ASSERT_TRUE(WaitForMessages(2));
  client.Send("b\nc\n");
  ASSERT_TRUE(WaitForMessages(4));
  EXPECT_EQ(Only().messages, (Messages{"a", "go", "b\n", "c\n"}));
}

TEST_P(MessageTest, WithoutAFramingBytesComeAsTheyAreAndWithOneAgainAsMessages) {
  OnEach([&](Connection& connection, Message& message) {
    if (message.view() == "raw") connection.SetFraming(nullptr);
  });
  handler_.on_read = [](Connection& connection, Buffer& buffer) {
    EXPECT_EQ(connection.framing(), nullptr);
    EXPECT_THROW(connection.SendAsMessage("x"), std::logic_error);
    if (buffer.view().ends_with('!')) connection.SetFraming(Netstring());
  };
  Start(With(Delimiter({"\n"})));
  const Stopper stopper{server_};
  const Client client(server_.address());
  client.Send("a\nraw\n");
  ASSERT_TRUE(WaitForMessages(2));
  client.Send("b\nc\n");
  client.Send("!");
  ASSERT_TRUE(
      handler_.WaitFor([&] { return handler_.records.begin()->second.received.ends_with('!'); }));
  client.Send("1:d,2:e\n,");
  ASSERT_TRUE(WaitForMessages(4));
  const RecordingHandler::Record record = Only();
  EXPECT_EQ(record.received, "b\nc\n!");
  EXPECT_EQ(record.messages, (Messages{"a", "raw", "d", "e\n"}));
}

TEST_P(MessageTest, TheFramingThatTheFirstHookSetsIsForTheFirstByte) {
  for (const EstablishedOn on : {EstablishedOn::kConnect, EstablishedOn::kFirstData}) {
    RecordingHandler handler;
    handler.hooks = handler_.hooks;
    handler.on_established = [](Connection& connection) {
      EXPECT_EQ(connection.framing(), nullptr);
      connection.SetFraming(FixedSize(2));
    };
    Server server(handler);
    Options options = With(nullptr);
    options.established_on = on;
    ASSERT_TRUE(server.Start(options).ok());
    const Stopper stopper{server};
    const Client client(server.address());
    client.Send("abcd");
    ASSERT_TRUE(handler.WaitFor([&] {
      return !handler.records.empty() && handler.records.begin()->second.messages.size() == 2;
    }));
    EXPECT_EQ(handler.records.begin()->second.received, "");
  }
}

// It waits in parts: some of it with the old framing, some behind it.
TEST_P(MessageTest, AnotherThreadsFramingCutsAllThatNoHookHasBeenGiven) {
  std::atomic<bool> paused{false};
  OnEach([&](Connection& connection, Message& message) {
    if (message.view() != "stop") return;
    connection.PauseReading();
    paused = true;
  });
  Start(With(Delimiter({"\n"})));
  const Stopper stopper{server_};
  const Client client(server_.address());
  client.Send("stop\n");
  ASSERT_TRUE(Eventually([&] { return paused.load(); }));
  client.Send("1:a,");
  client.Send("5:hel");
  const ConnectionPtr connection = OnlyOpen();
  connection->SetFraming(Netstring());
  connection->ResumeReading();
  client.Send("lo,");
  ASSERT_TRUE(WaitForMessages(3));
  EXPECT_EQ(Only().messages, (Messages{"stop", "a", "hello"}));
  // No byte follows the new framing: what is kept is enough for it.
  client.Send("2:x");
  ASSERT_TRUE(Eventually([&] { return connection->bytes_received() == 20; }));
  connection->SetFraming(FixedSize(3));
  ASSERT_TRUE(WaitForMessages(4));
  EXPECT_EQ(Only().messages.back(), "2:x");
}

// Nobody knows when it changes; no byte is lost or doubled.
TEST_P(MessageTest, AFramingMaySwitchAtAnyTime) {
  constexpr std::size_t kBytes = 100'000;
  std::atomic<std::size_t> delivered{0};
  OnEach([&](Connection&, Message& message) { delivered += message.size(); });
  Start(With(FixedSize(3)));
  const Stopper stopper{server_};
  const Client client(server_.address());
  const ConnectionPtr connection = OnlyOpen();
  std::atomic<bool> stop{false};
  std::thread switching([&] {
    const std::vector<FramingPtr> framings{FixedSize(1), FixedSize(70'000), FixedSize(7)};
    for (std::size_t i = 0; !stop; ++i) {
      connection->SetFraming(framings[i % framings.size()]);
      std::this_thread::yield();
    }
    connection->SetFraming(FixedSize(1));
  });
  const std::string data = Pattern(kBytes, 5);
  client.Send(data);
  stop = true;
  switching.join();
  ASSERT_TRUE(Eventually([&] { return delivered == kBytes; }));
  std::string all;
  for (const std::string& message : Only().messages) all += message;
  EXPECT_TRUE(all == data);
}

// ---- Pauses.

TEST_P(MessageTest, APauseHoldsBackTheNextMessage) {
  std::atomic<std::size_t> calls{0};
  const auto pause = [&](Connection& connection) {
    connection.PauseReading();
    ++calls;
  };
  handler_.on_message = [&](Connection& connection, Message&) { pause(connection); };
  handler_.on_messages = [&](Connection& connection, std::span<Message>) { pause(connection); };
  Start(With(Delimiter({"\n"})));
  const Stopper stopper{server_};
  const Client client(server_.address());
  client.Send("a\n");
  ASSERT_TRUE(Eventually([&] { return calls == 1; }));
  const ConnectionPtr connection = OnlyOpen();
  client.Send("b\nc\nd");
  client.Send("d\n");
  client.EndStream();
  std::size_t seen = 1;
  while (seen < 4) {
    const std::size_t before = calls;
    connection->ResumeReading();
    ASSERT_TRUE(Eventually([&] { return calls > before; }));
    EXPECT_EQ(calls, before + 1) << "it was paused again";
    seen = Only().messages.size();
    if (!GetParam().lists) {
      EXPECT_EQ(seen, before + 1);
    }
    EXPECT_FALSE(Only().ended);
  }
  connection->ResumeReading();
  ASSERT_TRUE(WaitForClosed());
  EXPECT_EQ(Only().messages, (Messages{"a", "b", "c", "dd"}));
  EXPECT_EQ(Only().closed, CloseReason::kPeerClosed);
}

TEST_P(MessageTest, NoMessageFollowsAClose) {
  OnEach([&](Connection& connection, Message& message) {
    if (message.view() == "close") connection.Close();
    if (message.view() == "abort") connection.Abort();
  });
  Start(With(Delimiter({"\n"})));
  const Stopper stopper{server_};
  std::size_t closed = 0;
  for (const std::string word : {"close", "abort"}) {
    const Client client(server_.address());
    client.Send("a\n" + word + "\n");
    ASSERT_TRUE(WaitForMessages(2 * (closed + 1)));
    client.Send("b\n");
    client.EndStream();
    ASSERT_TRUE(WaitForClosed(++closed));
    handler_.WaitFor([&] {
      EXPECT_EQ(handler_.records.rbegin()->second.messages, (Messages{"a", word}));
      return true;
    });
  }
}

// ---- Bytes that are no message.

struct Broken {
  FramingPtr framing;
  std::string wire;
  FrameFault fault;
};

std::vector<Broken> BrokenStreams() {
  LengthPrefixOptions small;
  small.max_size = 10;
  return {
      {LengthPrefix(small),
       "\0\0\0\1a\0\0\0\1b\xff\xff\xff\xffxyz"s,
       {Kind::kTooLong, 0xffffffffU, 10}},
      {Delimiter({"\n"}, false, 10), "a\nb\n12345678901", {Kind::kTooLong, {}, 10}},
      {Netstring(), "1:a,1:b,x", {Kind::kMalformed, {}, 0}},
      {Cobs(), "\2a\0\2b\0\5ab\0"s, {Kind::kMalformed, {}, 0}},
  };
}

TEST_P(MessageTest, AFaultIsReportedBehindTheMessagesBeforeIt) {
  for (const Broken& broken : BrokenStreams()) {
    RecordingHandler handler;
    handler.hooks = handler_.hooks;
    Server server(handler);
    ASSERT_TRUE(server.Start(With(broken.framing)).ok());
    const Stopper stopper{server};
    const Client client(server.address());
    client.Send(broken.wire);
    EXPECT_EQ(client.WaitForEnd(), 0);
    client.EndStream();
    ASSERT_TRUE(handler.WaitFor([&] { return handler.closed == 1; }));
    const RecordingHandler::Record& record = handler.records.begin()->second;
    EXPECT_EQ(record.messages, (Messages{"a", "b"}));
    EXPECT_EQ(record.error.kind, ErrorKind::kBadFrame);
    EXPECT_EQ(record.fault.kind, broken.fault.kind);
    EXPECT_EQ(record.fault.announced, broken.fault.announced);
    EXPECT_EQ(record.fault.limit, broken.fault.limit);
    EXPECT_EQ(record.closed, CloseReason::kFrameError);
    EXPECT_FALSE(record.ended);
    const Stats stats = server.stats();
    EXPECT_EQ(stats.closed[static_cast<std::size_t>(CloseReason::kFrameError)], 1U);
  }
}

// So that something is at hand whenever somebody looks.
TEST_P(MessageTest, WhoSendsForEverIsClosedByTheMessageTimeout) {
  LengthPrefixOptions large;
  large.max_size = std::size_t{1} << 40U;
  large.size = 8;
  Options options = With(LengthPrefix(large));
  options.message_timeout = std::chrono::milliseconds(50);
  Start(options);
  const Stopper stopper{server_};
  const Client client(server_.address());
  const std::string block(64 * 1024, '\0');
  ASSERT_TRUE(client.Send("\0\0\1\0\0\0\0\0"s));
  while (client.Send(block)) {
  }
  ASSERT_TRUE(WaitForClosed());
  EXPECT_EQ(Only().closed, CloseReason::kMessageTimeout);
}

TEST_P(MessageTest, AStreamThatEndsInsideAMessageIsAFault) {
  Start(With(LengthPrefix()));
  const Stopper stopper{server_};
  const Client client(server_.address());
  client.Send("\0\0\0\1a\0\0\0\5hell"s);
  client.EndStream();
  ASSERT_TRUE(WaitForClosed());
  const RecordingHandler::Record record = Only();
  EXPECT_EQ(record.messages, Messages{"a"});
  EXPECT_EQ(record.error.kind, ErrorKind::kBadFrame);
  EXPECT_EQ(record.fault.kind, Kind::kTruncated);
  EXPECT_EQ(record.closed, CloseReason::kFrameError);
  EXPECT_FALSE(record.ended);
}

TEST_P(MessageTest, TheEndOfTheStreamCompletesAMessage) {
  handler_.on_end_of_stream = [](Connection& connection) {
    EXPECT_EQ(connection.SendAsMessage("bye"), SendResult::kAccepted);
    return EndOfStream::kClose;
  };
  Start(With(Delimiter({"\r", "\r\n"})));
  const Stopper stopper{server_};
  const Client client(server_.address());
  client.Send("a\r\nb\r");
  client.EndStream();
  EXPECT_EQ(client.Receive(9), "bye\r");
  ASSERT_TRUE(WaitForClosed());
  EXPECT_EQ(Only().messages, (Messages{"a", "b"}));
  EXPECT_TRUE(Only().ended);
  EXPECT_EQ(Only().closed, CloseReason::kPeerClosed);
}

TEST_P(MessageTest, AMessageThatTakesTooLongEndsItsConnection) {
  Options options = With(Delimiter({"\n"}));
  options.message_timeout = 100ms;
  Start(options);
  const Stopper stopper{server_};
  const Client complete(server_.address());
  complete.Send("a\n");
  ASSERT_TRUE(WaitForMessages(1));
  const Client client(server_.address());
  client.Send("b\nc");
  EXPECT_EQ(client.WaitForEnd(), 0);
  ASSERT_TRUE(WaitForClosed());
  handler_.WaitFor([&] {
    for (const auto& [id, record] : handler_.records) {
      if (record.messages.front() == "b") {
        EXPECT_EQ(record.closed, CloseReason::kMessageTimeout);
      } else {
        EXPECT_FALSE(record.closed) << "it is inside no message";
      }
    }
    return true;
  });
}

INSTANTIATE_TEST_SUITE_P(Ports, MessageTest, ::testing::ValuesIn(MessageParams()),
                         [](const auto& param) { return param.param.name(); });
INSTANTIATE_TEST_SUITE_P(Ports, OneMessageTest, ::testing::ValuesIn(MessageParams(false)),
                         [](const auto& param) { return param.param.name(); });
INSTANTIATE_TEST_SUITE_P(Ports, MessageListTest, ::testing::ValuesIn(MessageParams(true)),
                         [](const auto& param) { return param.param.name(); });

}  // namespace
}  // namespace iocp::testing
