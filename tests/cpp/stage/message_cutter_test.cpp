// The cutter of a connection's stream: wherever it was received in parts, and whatever the framer
// does.
#include "stage/framing/message_cutter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "large_messages.h"
#include "support/framed.h"
#include "support/resp.h"

namespace iocp {
namespace {

using namespace std::string_literals;
using testing::AllEncoded;
using testing::Encoded;
using testing::FramedReader;
using testing::kKiB;
using testing::kMiB;
using testing::Large;
using testing::LargeOnes;
using testing::MessageAndFrame;
using testing::Numbers;
using testing::Received;
using testing::ReceiveOne;
using testing::RespFraming;
using Kind = FrameFault::Kind;
using Messages = std::vector<std::string>;

// ---- A stream means the same wherever it was received in parts.

struct Stream {
  std::string name;
  FramingPtr framing;
  std::string bytes;
};
std::ostream& operator<<(std::ostream& out, const Stream& stream) { return out << stream.name; }

std::vector<Stream> Streams() {
  const Messages texts{"", "a", "hello", "\r", std::string(40, 'x'), "end"};
  const Messages binary{"a", "\0\0"s, "\xc0\xdb"s, std::string(20, '\0'), "\xff\xfe"s};
  const auto prefix = [](int size, std::int64_t adjust, std::size_t offset, std::size_t strip) {
    LengthPrefixOptions options;
    options.size = size;
    options.adjust = adjust;
    options.offset = offset;
    options.strip = strip;
    options.max_size = 50;
    return LengthPrefix(options);
  };
  std::vector<Stream> streams;
  const auto add = [&](const char* name, const FramingPtr& framing, const std::string& bytes) {
    streams.push_back({name, framing, bytes});
  };
  const auto add_sent = [&](const char* name, const FramingPtr& framing, const Messages& messages) {
    const std::string bytes = AllEncoded(*framing, messages);
    add(name, framing, bytes);
    add((name + "Truncated"s).c_str(), framing, bytes.substr(0, bytes.size() - 1));
  };
  add_sent("LengthPrefix", LengthPrefix(), texts);
  add_sent("LengthPrefixOf8", prefix(8, 0, 0, 8), binary);
  add("LengthPrefixWithOffset", prefix(2, -1, 3, 4), "abc\0\3xyabc\0\1abc\0\6hello"s);
  add("LengthPrefixStrippedFar", prefix(1, 0, 0, 4), "\5xyzab\3xyz\4xyz!"s);
  add("LengthPrefixTooLong", prefix(1, 0, 0, 1), "\1a\2bc\x33"s);
  add("LengthPrefixMalformed", prefix(1, -2, 0, 1), "\3a\2\1aaa"s);
  add_sent("Delimiter", Delimiter({"\n"}), texts);
  add_sent("DelimiterKept", Delimiter({"\r\n", "\n"}, true), {"a\n", "\r\n", "\rb\r\n", "\n"});
  add_sent("DelimiterThatOverlapsItself", Delimiter({"abab"}), {"x", "aa", "", "bb"});
  add("DelimitersThatBeginAlike", Delimiter({"ab", "abcd", "abcde"}), "xababcabcdeyabcdabcabdzabc");
  add("DelimitersInOneAnother", Delimiter({"b", "abc"}), "xabcabdabbbabcxab");
  add("DelimiterThatMayGrow", Delimiter({"\r", "\r\n", "\n"}), "a\r\nb\rc\nd\r\r\n\r");
  add("DelimiterTooLate", Delimiter({"--", "-=-"}, false, 5), "a--12345--123-=-123456--");
  add_sent("FixedSize", FixedSize(5), {"abcde", "12345", "....."});
  add_sent("VarintPrefix", VarintPrefix(), {"", "a", std::string(130, 'x'), "b"});
  add("VarintTooLong", VarintPrefix(10), "\1a\x8b\0\x81\x80\0b\x8b\1"s);
  add("VarintMalformed", VarintPrefix(), "\1a" + std::string(10, '\x80') + "\1");
  add_sent("Netstring", Netstring(), texts);
  add("NetstringTooLong", Netstring(15), "3:abc,16:");
  add("NetstringMalformed", Netstring(), "3:abc,0:,03:abc,");
  add("NetstringWithoutComma", Netstring(), "3:abc,3:abcd3:abc,");
  add_sent("Cobs", Cobs(), binary);
  add("CobsWithZeros", Cobs(), "\0\0\2a\0\0\0\3bc\0\0"s);
  add("CobsMalformed", Cobs(), "\2a\0\5ab\0\2a\0"s);
  add("CobsMalformedBehindItsLimit", Cobs(3),
      "\2a\0\x07"
      "abcd\0"s);
  add("CobsMalformedBeforeItsLimit", Cobs(5),
      "\2a\0\x09"
      "abcd\0abcdefg"s);
  add_sent("Slip", Slip(), {"a", "\xc0\xdb"s, "hello", "\xdc"});
  add("SlipMalformed", Slip(),
      "a\xc0"
      "b\xdb\xdc\xdb"
      "c\xc0");
  add("SlipTooLong", Slip(3), "abc\xc0\xdb\xdc\xdb\xdd\xdb\xdc\xdb\xdc\xc0");
  add_sent("Resp", std::make_shared<RespFraming>(),
           {"*2\r\n$3\r\nGET\r\n$1\r\na\r\n", "*1\r\n$0\r\n\r\n", "*0\r\n",
            "*2\r\n$2\r\n\r\n\r\n$1\r\n*\r\n"});
  add("RespMalformed", std::make_shared<RespFraming>(), "*1\r\n$1\r\na\r\n*1\r\n$2\r\nabcd");
  return streams;
}

class SplitTest : public ::testing::TestWithParam<Stream> {
 protected:
  static std::string Outcome(const std::vector<std::string_view>& receives, std::size_t most) {
    FramedReader reader(GetParam().framing, most);
    for (const std::string_view bytes : receives) {
      if (!bytes.empty()) reader.Receive(bytes);
    }
    reader.End();
    return reader.outcome();
  }
};

TEST_P(SplitTest, IsCutTheSameWhereverItIsReceivedInParts) {
  const std::string_view all = GetParam().bytes;
  const std::string whole = Outcome({all}, FramedReader::kAll);
  for (const std::size_t most : {FramedReader::kAll, std::size_t{1}, std::size_t{2}}) {
    EXPECT_EQ(Outcome({all}, most), whole);
    for (std::size_t i = 0; i <= all.size(); ++i) {
      for (std::size_t j = i; j <= all.size(); ++j) {
        ASSERT_EQ(Outcome({all.substr(0, i), all.substr(i, j - i), all.substr(j)}, most), whole)
            << "split at " << i << " and " << j << ", most " << most;
      }
    }
    std::vector<std::string_view> bytes;
    for (std::size_t i = 0; i < all.size(); ++i) bytes.push_back(all.substr(i, 1));
    ASSERT_EQ(Outcome(bytes, most), whole) << "byte by byte";
  }
}

// A hook that pauses leaves all: what was found is found again, and what was kept is still there.
TEST_P(SplitTest, WhatIsNotConsumedIsCutAgainTheSame) {
  const std::string_view all = GetParam().bytes;
  const auto look = [](MessageCutter& cutter, const Buffer& bytes, std::size_t most, bool last) {
    std::vector<Message> found;
    const MessageCutter::Cuts cuts = cutter.Cut(bytes, most, last, &found);
    std::string seen = std::to_string(cuts.used) + (cuts.fault ? " fault" : "");
    for (Message& message : found) seen += " " + std::string(message.view());
    return seen;
  };
  for (std::size_t i = 0; i <= all.size(); ++i) {
    FramedReader reader(GetParam().framing);
    if (i != 0) reader.Receive(all.substr(0, i));
    if (reader.failed()) break;
    const std::size_t kept = reader.cutter().kept();
    const Buffer rest = i == all.size() ? Buffer() : BufferPool::Copy(all.substr(i));
    for (const bool last : {false, true}) {
      if (rest.size() == 0 && !last) continue;
      const std::string first = look(reader.cutter(), rest, FramedReader::kAll, last);
      look(reader.cutter(), rest, 1, last);
      EXPECT_EQ(look(reader.cutter(), rest, FramedReader::kAll, last), first);
    }
    std::string given;
    std::vector<Buffer> back = reader.cutter().GiveBack();
    for (const Buffer& buffer : back) given += buffer.view();
    EXPECT_EQ(given, all.substr(i - kept, kept));
    EXPECT_FALSE(reader.cutter().inside());
  }
}

INSTANTIATE_TEST_SUITE_P(Streams, SplitTest, ::testing::ValuesIn(Streams()),
                         [](const auto& stream) { return stream.param.name; });

// ---- Large messages.

TEST(MessageCutterTest, LargeMessagesAreJoinedCopiedAndShared) {
  for (const Large& large : LargeOnes()) {
    const auto [message, frame] = MessageAndFrame(large);
    for (const std::size_t each : {std::size_t{1000}, std::size_t{20'000}, 64 * kKiB, 2 * kMiB}) {
      MessageCutter cutter(large.framing);
      Buffer shared;
      Buffer shared_again;
      ReceiveOne(cutter, frame, each, std::max(each, 64 * kKiB), [&](Message& found) {
        ASSERT_EQ(found.size(), message.size());
        std::string copy(found.size(), '\0');
        found.CopyTo(copy.data());
        EXPECT_TRUE(copy == message);
        shared = found.Share();
        EXPECT_TRUE(found.view() == message);
        EXPECT_EQ(found.view().data(), found.view().data()) << "joined once";
        shared_again = found.Share();
        found.CopyTo(copy.data());
        EXPECT_TRUE(copy == message);
      });
      EXPECT_TRUE(shared.view() == message) << "it is good when the hook has returned";
      EXPECT_TRUE(shared_again.view() == message);
    }
  }
}

// One in front of it, one behind it, a second large one: everything in its place.
TEST(MessageCutterTest, LargeAndSmallMessagesFollowEachOther) {
  const Messages messages{
      "a", Numbers(100'000), "", "b", Numbers(40'000), Numbers(32 * kKiB), std::string(33'000, 'x'),
      "c"};
  for (const FramingPtr& framing : {LengthPrefix(), VarintPrefix(), Netstring()}) {
    const std::string wire = AllEncoded(*framing, messages);
    for (std::size_t each = 997; each < wire.size(); each = each * 3 / 2) {
      FramedReader reader(framing);
      for (std::size_t at = 0; at < wire.size(); at += each) {
        reader.Receive(
            Received(std::string_view(wire).substr(at, each), std::max(each, 64 * kKiB)));
      }
      reader.End();
      EXPECT_TRUE(reader.messages() == messages) << each;
      EXPECT_FALSE(reader.failed());
    }
  }
}

TEST(MessageCutterTest, SmallMessagesAreSharedWithoutACopy) {
  MessageCutter cutter(LengthPrefix());
  const Buffer bytes = BufferPool::Copy("\0\0\0\3abc"s);
  std::vector<Message> found;
  cutter.Cut(bytes, 9, false, &found);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].Share().data(), bytes.data() + 4);
  // One that came in parts is copied.
  FramedReader reader(LengthPrefix());
  reader.Receive("\0\0\0\3a"s);
  const Buffer rest = BufferPool::Copy("bc");
  reader.cutter().Cut(rest, 9, false, &found);
  ASSERT_EQ(found.size(), 1U);
  const Buffer shared = found[0].Share();
  EXPECT_NE(shared.data(), found[0].view().data());
  EXPECT_EQ(shared.view(), "abc");
}

TEST(MessageCutterTest, AnEmptyMessageHasNoBytesToShare) {
  MessageCutter cutter(LengthPrefix());
  std::vector<Message> found;
  const Buffer bytes = BufferPool::Copy(std::string(4, '\0'));
  cutter.Cut(bytes, 9, false, &found);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].view(), "");
  EXPECT_EQ(found[0].Share().size(), 0U);
  found[0].CopyTo(nullptr);
}

TEST(MessageCutterTest, TheEndOfALargeNetstringIsLookedAt) {
  const std::string wire = Encoded(*Netstring(), Numbers(100'000));
  for (const std::size_t split : {wire.size() / 2, wire.size() - 1}) {
    FramedReader reader(Netstring());
    reader.Receive(wire.substr(0, split));
    std::string rest = wire.substr(split);
    rest.back() = ';';
    reader.Receive(rest);
    EXPECT_EQ(reader.fault().kind, Kind::kMalformed);
    EXPECT_TRUE(reader.messages().empty());
  }
}

TEST(MessageCutterTest, ALargeMessageIsGivenBackInTheOrderOfItsBytes) {
  const std::string wire = Encoded(*LengthPrefix(), Numbers(300'000));
  for (const std::size_t each : {std::size_t{3}, std::size_t{5000}, std::size_t{50'000}}) {
    MessageCutter cutter(LengthPrefix());
    std::string fed;
    for (std::size_t at = 0; at + each < 250'000; at += each) {
      const Buffer bytes = Received(std::string_view(wire).substr(at, each), 64 * kKiB);
      fed += bytes.view();
      std::vector<Message> found;
      ASSERT_EQ(cutter.Cut(bytes, 9, false, &found).used, 0U);
      cutter.Keep(bytes.Slice(0, bytes.size()));
    }
    EXPECT_EQ(cutter.kept(), fed.size());
    std::string given;
    for (const Buffer& buffer : cutter.GiveBack()) given += buffer.view();
    EXPECT_TRUE(given == fed);
  }
}

TEST(MessageCutterTest, AStreamThatEndsInsideALargeMessageIsTruncated) {
  const std::string wire = Encoded(*LengthPrefix(), Numbers(300'000));
  FramedReader reader(LengthPrefix());
  reader.Receive(wire.substr(0, 299'999));
  reader.End();
  EXPECT_EQ(reader.fault().kind, Kind::kTruncated);
}

// If each byte had all before it looked through again this would take minutes.
TEST(MessageCutterTest, WhatComesByteByByteIsLookedAtOnce) {
  const std::string line(2 * kMiB, 'x');
  for (const FramingPtr& framing :
       {Delimiter({"\n"}, false, 2 * kMiB), Delimiter({"\r\n", "\n"}, false, 2 * kMiB),
        Cobs(2 * kMiB), Slip(2 * kMiB)}) {
    FramedReader reader(framing);
    for (const char c : line) reader.Receive(std::string_view(&c, 1));
    EXPECT_EQ(reader.cutter().kept(), line.size());
  }
}

// ---- Framers of one's own.

// Answers as the test says.
class Scripted final : public Framing {
 public:
  using Script = std::function<FrameCut(std::string_view, bool)>;
  class Scripter final : public Framer {
   public:
    explicit Scripter(const Scripted& framing) : framing_(framing) {}
    FrameCut Cut(std::string_view bytes, bool last) override {
      return framing_.script_(bytes, last);
    }
    bool EndsWell(std::string_view trailer) override {
      return trailer.find('!') == std::string_view::npos;
    }
    [[nodiscard]] bool decodes() const override { return framing_.decodes; }
    std::size_t Decode(char* data, std::size_t size) override {
      // Each byte is changed, and the last one goes.
      for (std::size_t i = 0; i < size; ++i) data[i] ^= 1;
      return size == 0 ? 0 : size - 1;
    }

   private:
    const Scripted& framing_;
  };

  explicit Scripted(Script script) : script_(std::move(script)) {}
  [[nodiscard]] std::unique_ptr<Framer> MakeFramer() const override {
    return std::make_unique<Scripter>(*this);
  }
  void Encode(std::string_view, Frame*) const override {}
  [[nodiscard]] std::size_t most_waiting() const override { return most; }

  std::size_t most = 100;
  bool decodes = false;

 private:
  const Script script_;
};

TEST(MessageCutterTest, ABrokenFramerIsAFault) {
  const std::vector<FrameCut> broken{
      FrameCut::Message(0, 0, 0),
      FrameCut::Message(9, 0, 1),
      FrameCut::Message(3, 4, 0),
      FrameCut::Message(3, 1, 3),
      FrameCut::Message(3, 0, std::string::npos),
      FrameCut::Skip(0),
      FrameCut::Skip(9),
      FrameCut::Announced(2, 0, 1),
      FrameCut::Announced(9, 10, 0),
      FrameCut::Announced(9, 1, 9),
      FrameCut::Announced(90'000, 1, 90'000),
  };
  for (const FrameCut& cut : broken) {
    const auto framing = std::make_shared<Scripted>([&](std::string_view, bool) { return cut; });
    FramedReader whole(framing);
    whole.Receive("abcde");
    EXPECT_EQ(whole.fault().kind, Kind::kMalformed);
    EXPECT_TRUE(whole.messages().empty());
    // The same behind bytes that are kept.
    const auto late = std::make_shared<Scripted>(
        [&](std::string_view bytes, bool) { return bytes.size() < 5 ? FrameCut::More() : cut; });
    FramedReader parts(late);
    parts.Receive("abcd");
    EXPECT_FALSE(parts.failed());
    parts.Receive("e");
    EXPECT_EQ(parts.fault().kind, Kind::kMalformed);
    // And behind a message.
    const auto second = std::make_shared<Scripted>([&](std::string_view bytes, bool) {
      return bytes[0] == '.' ? FrameCut::Message(1, 0, 1) : cut;
    });
    FramedReader behind(second);
    behind.Receive(".abcde");
    EXPECT_EQ(behind.messages(), Messages{"."});
    EXPECT_EQ(behind.fault().kind, Kind::kMalformed);
  }
}

TEST(MessageCutterTest, AFramerThatWaitsForEverIsTooLong) {
  const auto framing =
      std::make_shared<Scripted>([](std::string_view, bool) { return FrameCut::More(); });
  for (const std::size_t each : {1U, 50U, 101U, 5000U}) {
    FramedReader reader(framing);
    std::size_t fed = 0;
    for (; fed + each <= 100; fed += each) reader.Receive(std::string(each, 'x'));
    EXPECT_FALSE(reader.failed());
    reader.Receive(std::string(each, 'x'));
    EXPECT_EQ(reader.fault().kind, Kind::kTooLong);
    EXPECT_EQ(reader.fault().limit, 100U);
  }
}

// More bytes are announced than it wants in the end, and then again more.
TEST(MessageCutterTest, AFramerMayAskForMoreTwice) {
  const auto framing = std::make_shared<Scripted>([](std::string_view bytes, bool) {
    if (bytes.size() < 10) return FrameCut::Announced(10, 0, 10);
    return bytes.size() < 20 ? FrameCut::Announced(20, 0, 20) : FrameCut::Message(15, 5, 10);
  });
  FramedReader reader(framing);
  for (const char c : "abcdefghijklmnopqrstuvwxyz"s) reader.Receive(std::string_view(&c, 1));
  EXPECT_EQ(reader.messages(), Messages{"fghijklmno"});
  EXPECT_EQ(reader.cutter().kept(), 11U) << "what it did not use is cut again";
}

TEST(MessageCutterTest, WhatIsSkippedIsPartOfNoMessage) {
  const auto framing = std::make_shared<Scripted>([](std::string_view bytes, bool) {
    if (bytes[0] == '#') return bytes.size() < 2 ? FrameCut::More() : FrameCut::Skip(2);
    return FrameCut::Message(1, 0, 1);
  });
  for (const std::size_t most : {std::size_t{1}, FramedReader::kAll}) {
    for (const std::size_t each : {1U, 2U, 3U, 20U}) {
      FramedReader reader(framing, most);
      const std::string all = "#.a#.#.bc#.";
      for (std::size_t at = 0; at < all.size(); at += each) reader.Receive(all.substr(at, each));
      reader.End();
      EXPECT_EQ(reader.messages(), (Messages{"a", "b", "c"}));
      EXPECT_FALSE(reader.failed());
    }
  }
}

TEST(MessageCutterTest, LargeMessagesAreDecodedToo) {
  for (const bool decodes : {false, true}) {
    for (const std::size_t size : {std::size_t{10}, std::size_t{100'000}}) {
      const auto framing = std::make_shared<Scripted>([=](std::string_view bytes, bool) {
        return bytes.size() < size + 5 ? FrameCut::Announced(size + 5, 2, size)
                                       : FrameCut::Message(size + 5, 2, size);
      });
      framing->decodes = decodes;
      const std::string wire = "<<" + std::string(size, 'b') + ">>>";
      const std::string expected = decodes ? std::string(size - 1, 'c') : std::string(size, 'b');
      for (const std::size_t each : {wire.size(), wire.size() / 2, std::size_t{1}}) {
        MessageCutter cutter(framing);
        Buffer shared;
        ReceiveOne(cutter, wire, each, 200'000, [&](Message& found) {
          EXPECT_EQ(found.size(), expected.size());
          std::string copy(found.size(), '\0');
          found.CopyTo(copy.data());
          EXPECT_TRUE(copy == expected);
          EXPECT_TRUE(found.view() == expected);
          shared = found.Share();
        });
        EXPECT_TRUE(shared.view() == expected);
      }
    }
  }
}

TEST(MessageCutterTest, TheTrailerOfALargeMessageIsShownToItsFramer) {
  const auto framing = std::make_shared<Scripted>([](std::string_view bytes, bool) {
    return bytes.size() < 100'005 ? FrameCut::Announced(100'005, 2, 100'000)
                                  : FrameCut::Malformed();
  });
  for (const bool good : {true, false}) {
    for (const std::size_t split : {50'000U, 100'001U, 100'003U, 100'004U}) {
      FramedReader reader(framing);
      const std::string wire = "<<" + std::string(100'000, 'b') + (good ? ">>>" : ">!>");
      reader.Receive(wire.substr(0, split));
      reader.Receive(wire.substr(split));
      EXPECT_EQ(reader.failed(), !good);
      EXPECT_EQ(reader.messages().size(), good ? 1U : 0U);
    }
  }
}

// The list asks for all, and takes a few at a time.
// Reads the five digits in front of a message once, and remembers them until it is done with it.
class Remembering final : public Framing {
 public:
  class Reader final : public Framer {
   public:
    FrameCut Cut(std::string_view bytes, bool) override {
      if (bytes.size() < kHeader) return FrameCut::More();
      if (!size_) size_ = std::stoul(std::string(bytes.substr(0, kHeader)));
      const std::size_t size = *size_;
      const std::size_t used = kHeader + size;
      if (bytes.size() < used) return FrameCut::Announced(used, kHeader, size);
      Reset();
      return FrameCut::Message(used, kHeader, size);
    }
    void Reset() override { size_.reset(); }

   private:
    std::optional<std::size_t> size_;
  };
  static constexpr std::size_t kHeader = 5;

  [[nodiscard]] std::unique_ptr<Framer> MakeFramer() const override {
    return std::make_unique<Reader>();
  }
  void Encode(std::string_view, Frame*) const override {}
  [[nodiscard]] std::size_t most_waiting() const override { return kHeader; }
};

TEST(MessageCutterTest, AFramerForgetsALargeMessageThatWasCompletedWithoutIt) {
  const std::string large(20'000, 'l');
  FramedReader reader(std::make_shared<Remembering>());
  const std::string stream = "20000" + large + "00001a00002bc";
  reader.Receive(std::string_view(stream).substr(0, 10'000));
  reader.Receive(std::string_view(stream).substr(10'000));
  EXPECT_EQ(reader.messages(), (Messages{large, "a", "bc"}));
}

TEST(MessageCutterTest, AListHasNoMoreThanItMay) {
  MessageCutter cutter(Delimiter({"\n"}));
  Buffer bytes = BufferPool::Copy("a\nb\nc\nd");
  std::vector<Message> found;
  MessageCutter::Cuts cuts = cutter.Cut(bytes, 2, false, &found);
  EXPECT_EQ(found.size(), 2U);
  EXPECT_EQ(cuts.used, 4U);
  cutter.Consume(bytes, cuts.used);
  cuts = cutter.Cut(bytes, 2, false, &found);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].view(), "c");
  cutter.Consume(bytes, cuts.used);
  cuts = cutter.Cut(bytes, 2, false, &found);
  EXPECT_TRUE(found.empty());
  EXPECT_EQ(cuts.used, 0U);
  EXPECT_FALSE(cuts.fault);
}

TEST(MessageCutterTest, WhatIsGivenBackIsCutByAnotherFraming) {
  FramedReader lines(Delimiter({"\n"}));
  lines.Receive("first\n\0\0\0\5hel"s);
  EXPECT_EQ(lines.messages(), Messages{"first"});
  FramedReader lengths(LengthPrefix());
  for (Buffer& buffer : lines.cutter().GiveBack()) lengths.Receive(std::move(buffer));
  lengths.Receive("lo");
  EXPECT_EQ(lengths.messages(), Messages{"hello"});
  // The first one begins anew.
  lines.Receive("x\n");
  EXPECT_EQ(lines.messages(), (Messages{"first", "x"}));
}

}  // namespace
}  // namespace iocp
