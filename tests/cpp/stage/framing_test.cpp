// Each framing on its own: its parameters, what it sends, and what it makes of any bytes.
#include "iocp/framing.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "support/framed.h"

namespace iocp {
namespace {

using namespace std::string_literals;
using testing::AllEncoded;
using testing::Encoded;
using testing::FramedReader;
using Kind = FrameFault::Kind;
using Messages = std::vector<std::string>;

// The messages of a stream that ends well behind them.
Messages Cut(const FramingPtr& framing, std::string_view stream) {
  FramedReader reader(framing);
  reader.Receive(stream);
  reader.End();
  EXPECT_FALSE(reader.failed()) << reader.fault().Describe();
  return reader.messages();
}

// The fault that a stream ends with when nothing follows it, and when something could.
FrameFault FaultOf(const FramingPtr& framing, std::string_view stream) {
  FramedReader reader(framing);
  reader.Receive(stream);
  reader.End();
  return reader.fault();
}
Kind KindOf(const FramingPtr& framing, std::string_view stream) {
  return FaultOf(framing, stream).kind;
}

// The sentence of a refusal; empty when nothing was refused.
std::string Refusal(const std::function<void()>& what) {
  try {
    what();
    return "";
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
}
std::string RefusedMessage(const FramingPtr& framing, std::string_view message) {
  return Refusal([&] { Encoded(*framing, message); });
}

FramingPtr Length(int size, std::int64_t adjust = 0, std::size_t offset = 0,
                  std::optional<std::size_t> strip = {}, std::size_t max_size = 1000) {
  LengthPrefixOptions options;
  options.size = size;
  options.adjust = adjust;
  options.offset = offset;
  options.strip = strip;
  options.max_size = max_size;
  return LengthPrefix(options);
}

TEST(FramingTest, ParametersOutOfRangeAreRefusedByName) {
  const auto names = [](const char* name, const std::function<void()>& what) {
    const std::string refusal = Refusal(what);
    EXPECT_NE(refusal.find(name), std::string::npos) << name << ": " << refusal;
  };
  constexpr std::size_t kTooMuch = (std::size_t{1} << 40U) + 1;
  for (const std::size_t bad : {std::size_t{0}, kTooMuch}) {
    names("max_size", [&] { Length(4, 0, 0, {}, bad); });
    names("max_size", [&] { Delimiter({"\n"}, false, bad); });
    names("max_size", [&] { VarintPrefix(bad); });
    names("max_size", [&] { Netstring(bad); });
    names("max_size", [&] { Cobs(bad); });
    names("max_size", [&] { Slip(bad); });
  }
  for (const int bad : {-1, 0, 5, 6, 7, 9, std::numeric_limits<int>::max()}) {
    names("size", [&] { Length(bad); });
  }
  names("offset", [] { Length(4, 0, 1025); });
  names("strip", [] { Length(4, 0, 0, 2049); });
  constexpr std::int64_t kMost = std::int64_t{1} << 40U;
  for (const std::int64_t bad : {kMost + 1, -kMost - 1, std::numeric_limits<std::int64_t>::max(),
                                 std::numeric_limits<std::int64_t>::min()}) {
    names("adjust", [&] { Length(4, bad); });
  }
  names("delimiters", [] { Delimiter({}); });
  names("delimiters", [] { Delimiter(Messages(17, "x")); });
  names("length of a delimiter", [] { Delimiter({"x", ""}); });
  names("length of a delimiter", [] { Delimiter({std::string(65, 'x')}); });
  names("size", [] { FixedSize(0); });
  names("size", [] { FixedSize((std::size_t{1} << 30U) + 1); });
}

TEST(FramingTest, ParametersAtTheEndsOfTheirRangesAreGood) {
  constexpr std::int64_t kMost = std::int64_t{1} << 40U;
  for (const int size : {1, 2, 3, 4, 8}) Length(size);
  Length(8, kMost, 1024, 2048, 1);
  Length(8, -kMost, 1024, 0, std::size_t{1} << 40U);
  Delimiter(Messages(16, std::string(64, 'x')), true, 1);
  FixedSize(1);
  FixedSize(std::size_t{1} << 30U);
}

// ---- The length prefix.

TEST(FramingTest, ALengthHasTheSizeAndTheByteOrderThatWereAskedFor) {
  LengthPrefixOptions options;
  const std::string message(0x0102, 'x');
  options.size = 2;
  EXPECT_EQ(Encoded(*LengthPrefix(options), message).substr(0, 2), "\x01\x02");
  options.little_endian = true;
  EXPECT_EQ(Encoded(*LengthPrefix(options), message).substr(0, 2), "\x02\x01");
  options.size = 3;
  EXPECT_EQ(Encoded(*LengthPrefix(options), message).substr(0, 3), "\x02\x01\0"s);
  options.size = 8;
  EXPECT_EQ(Encoded(*LengthPrefix(options), message).substr(0, 8), "\x02\x01\0\0\0\0\0\0"s);
  for (const int size : {1, 2, 3, 4, 8}) {
    for (const bool little_endian : {false, true}) {
      options.size = size;
      options.little_endian = little_endian;
      const Messages messages{"", "a", std::string(255, 'b'), ""};
      const FramingPtr framing = LengthPrefix(options);
      EXPECT_EQ(Cut(framing, AllEncoded(*framing, messages)), messages);
    }
  }
}

// The examples of Netty's LengthFieldBasedFrameDecoder, which has the same options.
TEST(FramingTest, ALengthPrefixDoesWhatNettyDoes) {
  const std::string text = "HELLO, WORLD";
  const std::string two = "\x00\x0c"s;
  EXPECT_EQ(Cut(Length(2, 0, 0, 0), two + text), Messages{two + text});
  EXPECT_EQ(Cut(Length(2, 0, 0, 2), two + text), Messages{text});
  EXPECT_EQ(Cut(Length(2, -2, 0, 0), "\x00\x0e"s + text), Messages{"\x00\x0e"s + text});
  const std::string three = "\x00\x00\x0c"s;
  EXPECT_EQ(Cut(Length(3, 0, 2, 0), "\xca\xfe" + three + text),
            Messages{"\xca\xfe" + three + text});
  EXPECT_EQ(Cut(Length(3, 2, 0, 0), three + "\xca\xfe" + text),
            Messages{three + "\xca\xfe" + text});
  EXPECT_EQ(Cut(Length(2, 1, 1, 3), "\xca" + two + "\xfe" + text), Messages{"\xfe" + text});
  EXPECT_EQ(Cut(Length(2, -3, 1, 3), "\xca\x00\x10\xfe"s + text), Messages{"\xfe" + text});
}

TEST(FramingTest, ByDefaultAHeaderIsStrippedOnlyWithoutAnOffset) {
  EXPECT_EQ(Cut(Length(1), "\2ab"), Messages{"ab"});
  EXPECT_EQ(Cut(Length(1, 0, 1), "x\2ab"), Messages{"x\2ab"});
}

TEST(FramingTest, MoreThanTheHeaderMayBeStripped) {
  EXPECT_EQ(Cut(Length(1, 0, 0, 3), "\4abcd"), Messages{"cd"});
  EXPECT_EQ(Cut(Length(1, 0, 0, 3), "\2ab"), Messages{""});
  EXPECT_EQ(KindOf(Length(1, 0, 0, 3), "\1a"), Kind::kMalformed) << "less than is stripped";
}

TEST(FramingTest, AnAdjustedLengthIsTheSameBothWays) {
  for (const std::int64_t adjust : {-3, -1, 1, 5}) {
    const FramingPtr framing = Length(2, adjust);
    const Messages messages{"abcdef", std::string(300, 'x'), "hello"};
    EXPECT_EQ(Cut(framing, AllEncoded(*framing, messages)), messages) << adjust;
  }
  EXPECT_NE(RefusedMessage(Length(2, 5), "abcd"), "") << "it would need a length below 0";
  EXPECT_EQ(Encoded(*Length(1, 5), "abcde"), "\0abcde"s);
  EXPECT_NE(RefusedMessage(Length(1, -3), std::string(253, 'x')), "");
  EXPECT_EQ(RefusedMessage(Length(1, -3), std::string(252, 'x')), "");
}

TEST(FramingTest, ALengthThatIsTooLargeForItsFieldIsRefused) {
  EXPECT_EQ(RefusedMessage(Length(1), std::string(255, 'x')), "");
  EXPECT_NE(RefusedMessage(Length(1), std::string(256, 'x')).find("1 bytes"), std::string::npos);
  const std::size_t most = std::size_t{1} << 20U;
  EXPECT_NE(RefusedMessage(Length(2, 0, 0, {}, most), std::string(65'536, 'x')), "");
  EXPECT_EQ(RefusedMessage(Length(2, 0, 0, {}, most), std::string(65'535, 'x')), "");
}

TEST(FramingTest, AMessageThatKeepsItsHeaderIsSentIfTheLengthInItIsRight) {
  const FramingPtr framing = Length(2, 0, 1, 0);
  EXPECT_EQ(Encoded(*framing, "x\0\2ab"s), "x\0\2ab"s);
  for (const std::string& bad : {"x\0\2a"s, "x\0\2abc"s, "x\0"s, ""s}) {
    EXPECT_NE(RefusedMessage(framing, bad), "") << bad.size();
  }
  EXPECT_NE(RefusedMessage(Length(2, 0, 1, 3), "ab").find("send()"), std::string::npos);
  EXPECT_NE(RefusedMessage(Length(4, 0, 0, 2), "ab"), "");
  EXPECT_NE(RefusedMessage(Length(4, 0, 0, 6), "ab"), "");
}

TEST(FramingTest, TheLimitIsComparedWithTheAnnouncedLength) {
  const FrameFault fault = FaultOf(Length(4), "\0\0\x03\xe9"s);
  EXPECT_EQ(fault.kind, Kind::kTooLong);
  EXPECT_EQ(fault.announced, 1001U);
  EXPECT_EQ(fault.limit, 1000U);
  EXPECT_EQ(Cut(Length(4), "\0\0\x03\xe8"s + std::string(1000, 'x')).size(), 1U);
  // The limit is for what the hook gets.
  EXPECT_EQ(KindOf(Length(1, 0, 0, 0, 2), "\1a"), Kind::kNone);
  EXPECT_EQ(FaultOf(Length(1, 0, 0, 0, 2), "\2ab").announced, 3U);
  EXPECT_EQ(KindOf(Length(1, 0, 0, 3, 2), "\4abcd"), Kind::kNone);
}

TEST(FramingTest, TheLimitIsForWhatIsReceived) {
  const std::string message(1001, 'x');
  for (const FramingPtr& framing : {Length(4), Delimiter({"\n"}, false, 1000), VarintPrefix(1000),
                                    Netstring(1000), Cobs(1000), Slip(1000)}) {
    const std::string sent = Encoded(*framing, message);
    EXPECT_EQ(KindOf(framing, sent), Kind::kTooLong);
    EXPECT_NE(sent.find(message.substr(0, 254)), std::string::npos);
  }
  EXPECT_EQ(Encoded(*Length(1, 0, 0, 0, 2), "\2ab"), "\2ab") << "with its header";
  EXPECT_EQ(Encoded(*Delimiter({"\n"}, true, 2), "abc\n"), "abc\n");
}

TEST(FramingTest, AnnouncedLengthsOfAnySizeAreTooLong) {
  EXPECT_EQ(FaultOf(Length(4), "\xff\xff\xff\xff").announced, 0xffffffffU);
  const std::string most(8, '\xff');
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
  EXPECT_EQ(FaultOf(Length(8), most).announced, kMost);
  EXPECT_EQ(FaultOf(Length(8), "\0\0\0\1\0\0\0\0"s).announced, std::uint64_t{1} << 32U);
  EXPECT_EQ(FaultOf(Length(8, 0, 0, {}, std::size_t{1} << 40U), most).kind, Kind::kTooLong);
}

TEST(FramingTest, ALengthThatOverflowsWhenItIsAdjustedIsTooLong) {
  const std::string most(8, '\xff');
  const std::string nearly = std::string(7, '\xff') + "\xfa";
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
  for (const std::int64_t adjust : {1, 5, 6, 1000}) {
    EXPECT_EQ(FaultOf(Length(8, adjust), most).announced, kMost);
    EXPECT_EQ(KindOf(Length(8, adjust), nearly), Kind::kTooLong);
  }
  EXPECT_EQ(FaultOf(Length(8, 0, 0, 0), most).announced, kMost) << "and the header";
  EXPECT_EQ(FaultOf(Length(8, -1), most).announced, kMost - 1);
  EXPECT_EQ(FaultOf(Length(8, 0, 0, 2048), most).announced, kMost - 2040);
}

TEST(FramingTest, ALengthThatIsNegativeWhenItIsAdjustedIsMalformed) {
  EXPECT_EQ(KindOf(Length(4, -5), "\0\0\0\4"s), Kind::kMalformed);
  EXPECT_EQ(Cut(Length(4, -5), "\0\0\0\5"s), Messages{""});
  EXPECT_EQ(KindOf(Length(1, -(std::int64_t{1} << 40U)), "\xff"), Kind::kMalformed);
}

// ---- Delimiters.

TEST(FramingTest, ADelimiterEndsEachMessage) {
  EXPECT_EQ(Cut(Delimiter({"\n"}), "a\n\nbc\n"), (Messages{"a", "", "bc"}));
  EXPECT_EQ(Cut(Delimiter({"\n"}, true), "a\n\nbc\n"), (Messages{"a\n", "\n", "bc\n"}));
  EXPECT_EQ(Cut(Delimiter({"\r\n"}), "a\r\n\r\nb\rc\nd\r\n"), (Messages{"a", "", "b\rc\nd"}));
  EXPECT_EQ(KindOf(Delimiter({"\n"}), "a\nb"), Kind::kTruncated);
  EXPECT_EQ(Encoded(*Delimiter({"\r\n", "\n"}), "a"), "a\r\n") << "the first is sent";
}

TEST(FramingTest, OfDelimitersAtOnePlaceTheLongestCounts) {
  const FramingPtr framing = Delimiter({"\r", "\r\n", "\n"});
  EXPECT_EQ(Cut(framing, "a\r\nb\nc\rd\r\n"), (Messages{"a", "b", "c", "d"}));
  EXPECT_EQ(Cut(framing, "a\r"), Messages{"a"}) << "nothing follows that could be a part of it";
  EXPECT_EQ(Cut(Delimiter({"ab", "abcd"}), "xabcyabcdz\rabc"s + "ab"),
            (Messages{"x", "cy", "z\r", "c"}));
}

TEST(FramingTest, TheEarliestDelimiterCounts) {
  // It begins earlier, and ends later.
  EXPECT_EQ(Cut(Delimiter({"b", "abc"}), "xabcb"), (Messages{"x", ""}));
  EXPECT_EQ(Cut(Delimiter({"b", "abc"}), "xabd" + "b"s), (Messages{"xa", "d"}));
  EXPECT_EQ(Cut(Delimiter({"b", "abc"}), "xab"), Messages{"xa"});
  FramedReader reader(Delimiter({"b", "abc"}));
  reader.Receive("xab");
  EXPECT_TRUE(reader.messages().empty()) << "a c could follow";
  reader.Receive("c");
  EXPECT_EQ(reader.messages(), Messages{"x"});
}

TEST(FramingTest, DelimitersThatOverlapThemselvesAreFound) {
  EXPECT_EQ(Cut(Delimiter({"aab"}), "aaabaaaab"), (Messages{"a", "aa"}));
  EXPECT_EQ(Cut(Delimiter({"abab"}), "ababab" + "ab"s), (Messages{"", ""}));
  EXPECT_EQ(Cut(Delimiter({"aa"}), "aaaa"), (Messages{"", ""}));
  EXPECT_EQ(Cut(Delimiter({"\r\n\r\n"}), "a\r\n\r\r\n\r\n"), Messages{"a\r\n\r"});
}

TEST(FramingTest, ALineIsTooLongWithItsFirstByteOverTheLimit) {
  for (const Messages& delimiters : {Messages{"\n"}, Messages{"\r\n"}, Messages{"--", "-=-="}}) {
    for (const bool keep : {false, true}) {
      const FramingPtr framing = Delimiter(delimiters, keep, 5);
      EXPECT_EQ(Cut(framing, "12345" + delimiters[0]).size(), 1U);
      const FrameFault fault = FaultOf(framing, "123456" + delimiters[0]);
      EXPECT_EQ(fault.kind, Kind::kTooLong);
      EXPECT_EQ(fault.announced, std::nullopt);
      EXPECT_EQ(fault.limit, 5U);
      FramedReader reader(framing);
      reader.Receive("12345");
      EXPECT_FALSE(reader.failed());
      reader.Receive(delimiters[0].substr(0, delimiters[0].size() - 1));
      EXPECT_FALSE(reader.failed());
      reader.Receive("6");
      EXPECT_TRUE(reader.failed());
    }
  }
}

TEST(FramingTest, AMessageThatTheDelimitersWouldCutIsRefused) {
  const FramingPtr lines = Delimiter({"\r\n", "\n"});
  EXPECT_NE(RefusedMessage(lines, "a\nb"), "");
  EXPECT_NE(RefusedMessage(lines, "a\r\n"), "");
  EXPECT_EQ(RefusedMessage(lines, "a\rb"), "");
  EXPECT_NE(RefusedMessage(Delimiter({"aa"}), "xa"), "") << "it would end a byte earlier";
  EXPECT_EQ(RefusedMessage(Delimiter({"aa"}), "ax"), "");
  EXPECT_NE(RefusedMessage(Delimiter({"\r", "\r\n"}), "\nx"), "") << "with the one before";
  EXPECT_EQ(RefusedMessage(Delimiter({"\r", "\r\n"}), "x"), "");
  EXPECT_NE(RefusedMessage(Delimiter({"b", "abc"}), "xa"), "") << "if a c is sent next";
  EXPECT_NE(RefusedMessage(Delimiter({"a", "abab"}), "b"), "") << "if it is sent twice";
}

TEST(FramingTest, AMessageThatKeepsItsDelimiterEndsWithTheOnlyOneInIt) {
  const FramingPtr lines = Delimiter({"\r\n", "\n"}, true);
  EXPECT_EQ(Encoded(*lines, "a\n"), "a\n");
  EXPECT_EQ(Encoded(*lines, "\r\n"), "\r\n");
  for (const char* bad : {"", "a", "a\nb", "a\n\n", "a\r"})
    EXPECT_NE(RefusedMessage(lines, bad), "");
  const FramingPtr all = Delimiter({"\n", "\r", "\r\n"}, true);
  EXPECT_EQ(RefusedMessage(all, "\n"), "");
  EXPECT_NE(RefusedMessage(all, "a\r"), "") << "an empty line could be sent next";
  EXPECT_EQ(RefusedMessage(Delimiter({"\r", "\r\n"}, true), "a\r"), "");
  EXPECT_NE(RefusedMessage(Delimiter({"\r", "\r\n"}, true), "\na\r"), "");
}

// Whatever is not refused arrives as it was sent, in any order.
TEST(FramingTest, WhatDelimitersDoNotRefuseArrives) {
  const std::vector<Messages> sets{{"a"},       {"aa"},       {"ab"},           {"a", "ab"},
                                   {"a", "ba"}, {"b", "abc"}, {"ab", "abcd"},   {"a", "abab"},
                                   {"aba"},     {"a", "aba"}, {"ab", "b", "a"}, {"abc", "b"},
                                   {"ca", "ab"}};
  Messages words{""};
  for (std::size_t i = 0; words[i].size() < 4; ++i) {
    for (const char c : {'a', 'b', 'c', 'd'}) words.push_back(words[i] + c);
  }
  for (const Messages& delimiters : sets) {
    for (const bool keep : {false, true}) {
      const FramingPtr framing = Delimiter(delimiters, keep);
      Messages good;
      for (const std::string& word : words) {
        if (RefusedMessage(framing, word).empty()) good.push_back(word);
      }
      EXPECT_GT(good.size(), 3U);
      for (std::size_t step = 1; step < 8; ++step) {
        Messages sent;
        for (std::size_t i = 0; i < 200; ++i) sent.push_back(good[i * i * step % good.size()]);
        const std::string wire = AllEncoded(*framing, sent);
        ASSERT_EQ(Cut(framing, wire), sent) << delimiters[0] << " " << keep;
      }
      for (const std::string& one : good) {
        if (one.size() > 2) continue;
        for (const std::string& other : good) {
          if (other.size() > 2) continue;
          const Messages sent{one, other, one};
          ASSERT_EQ(Cut(framing, AllEncoded(*framing, sent)), sent) << delimiters[0] << " " << keep;
        }
      }
    }
  }
}

// ---- The others.

TEST(FramingTest, FixedSizesAreSentAsTheyAre) {
  EXPECT_EQ(Cut(FixedSize(3), "abcdef"), (Messages{"abc", "def"}));
  EXPECT_EQ(KindOf(FixedSize(3), "abcd"), Kind::kTruncated);
  EXPECT_EQ(Encoded(*FixedSize(3), "abc"), "abc");
  EXPECT_NE(RefusedMessage(FixedSize(3), "ab").find("3 bytes, not 2"), std::string::npos);
  EXPECT_NE(RefusedMessage(FixedSize(3), "abcd"), "");
  EXPECT_NE(RefusedMessage(FixedSize(3), ""), "");
}

TEST(FramingTest, VarintsAreThoseOfProtobuf) {
  const FramingPtr framing = VarintPrefix();
  EXPECT_EQ(Encoded(*framing, ""), "\0"s);
  EXPECT_EQ(Encoded(*framing, std::string(127, 'x')).substr(0, 1), "\x7f");
  EXPECT_EQ(Encoded(*framing, std::string(128, 'x')).substr(0, 2), "\x80\x01");
  EXPECT_EQ(Encoded(*framing, std::string(300, 'x')).substr(0, 2), "\xac\x02");
  const Messages messages{"", "a", std::string(127, 'b'), std::string(128, 'c'),
                          std::string(20'000, 'd')};
  EXPECT_EQ(Cut(framing, AllEncoded(*framing, messages)), messages);
  EXPECT_EQ(Cut(framing, "\x81\x80\x80\x80\0a"s), Messages{"a"}) << "longer than it need be";
}

TEST(FramingTest, AVarintHasTenBytesAtMost) {
  const std::string nine(9, '\xff');
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
  EXPECT_EQ(FaultOf(VarintPrefix(), nine + "\x01").announced, kMost);
  EXPECT_EQ(Cut(VarintPrefix(), std::string(9, '\x80') + "\0"s), Messages{""});
  EXPECT_EQ(KindOf(VarintPrefix(), nine + "\x02"), Kind::kMalformed) << "more than 64 bits";
  EXPECT_EQ(KindOf(VarintPrefix(), std::string(10, '\x80') + "\x01"), Kind::kMalformed);
  EXPECT_EQ(KindOf(VarintPrefix(), nine), Kind::kTruncated);
  EXPECT_EQ(FaultOf(VarintPrefix(99), "\x64").announced, 100U);
  EXPECT_EQ(FaultOf(VarintPrefix(), "\x80\x80\x80\x80\x10").announced, std::uint64_t{1} << 32U);
}

TEST(FramingTest, NetstringsHaveNoLeadingZerosAndEndWithAComma) {
  const FramingPtr framing = Netstring(1000);
  EXPECT_EQ(Encoded(*framing, "hello world!"), "12:hello world!,");
  EXPECT_EQ(Cut(framing, "0:,12:hello world!,1:,,"), (Messages{"", "hello world!", ","}));
  for (const char* bad : {"00:,", "01:a,", ":", ":,", "a", "-1:", "+1:a,", " 1:a,", "1 :a,",
                          "1a:", "1:ab", "1:a;", "0:a", ","}) {
    EXPECT_EQ(KindOf(framing, bad), Kind::kMalformed) << bad;
  }
  EXPECT_EQ(KindOf(framing, "1001"), Kind::kTooLong) << "before the colon has come";
  EXPECT_EQ(FaultOf(framing, "1001:").announced, std::nullopt);
  EXPECT_EQ(KindOf(framing, "999999999999999999999999999"), Kind::kTooLong);
  EXPECT_EQ(KindOf(Netstring(std::size_t{1} << 40U), "4294967296:"), Kind::kTruncated);
  for (const char* some : {"1", "1:", "1:a"}) EXPECT_EQ(KindOf(framing, some), Kind::kTruncated);
  EXPECT_EQ(Cut(framing, "1000:" + std::string(1000, 'x') + ",").size(), 1U);
}

std::string Bytes(int from, int to) {
  std::string bytes;
  for (int i = from; i <= to; ++i) bytes += static_cast<char>(i);
  return bytes;
}

// Those of Cheshire and Baker's paper, as they are commonly tabled.
TEST(FramingTest, CobsVectors) {
  const std::vector<std::pair<std::string, std::string>> vectors{
      {"", "\x01"},
      {"\0"s, "\x01\x01"},
      {"\0\0"s, "\x01\x01\x01"},
      {"\0\x11\0"s, "\x01\x02\x11\x01"},
      {"\x11\x22\0\x33"s, "\x03\x11\x22\x02\x33"},
      {"\x11\x22\x33\x44", "\x05\x11\x22\x33\x44"},
      {"\x11\0\0\0"s, "\x02\x11\x01\x01\x01"},
      {Bytes(1, 254), "\xff" + Bytes(1, 254)},
      {"\0"s + Bytes(1, 254), "\x01\xff" + Bytes(1, 254)},
      {Bytes(1, 255), "\xff" + Bytes(1, 254) + "\x02\xff"},
      {Bytes(2, 255) + "\0"s, "\xff" + Bytes(2, 255) + "\x01\x01"},
      {Bytes(3, 255) + "\0\x01"s, "\xfe" + Bytes(3, 255) + "\x02\x01"},
  };
  const FramingPtr framing = Cobs();
  for (const auto& [message, encoded] : vectors) {
    EXPECT_EQ(Encoded(*framing, message), encoded + "\0"s);
    EXPECT_EQ(Cut(framing, encoded + "\0"s), Messages{message});
  }
  EXPECT_EQ(Cut(framing,
                "\0\0\x02"
                "a\0\0\0\x02"
                "b\0\0"s),
            (Messages{"a", "b"}));
  EXPECT_EQ(Cut(framing, "\xff" + Bytes(1, 254) + "\x01\0"s), Messages{Bytes(1, 254)})
      << "an encoder may write the empty run";
}

TEST(FramingTest, CobsRefusesWhatIsBrokenOrTooLong) {
  EXPECT_EQ(KindOf(Cobs(), "\x05" + "ab\0"s), Kind::kMalformed) << "the run ends too early";
  EXPECT_EQ(KindOf(Cobs(), "\x05" + "ab"s), Kind::kTruncated);
  EXPECT_EQ(KindOf(Cobs(3), "\x05" + "abcd\0"s), Kind::kTooLong);
  EXPECT_EQ(KindOf(Cobs(4), "\x05" + "abcd\0"s), Kind::kNone);
  EXPECT_EQ(KindOf(Cobs(3), "\x01\x01\x01\x01\x01\0"s), Kind::kTooLong) << "of zeros";
  EXPECT_EQ(KindOf(Cobs(4), "\x01\x01\x01\x01\x01\0"s), Kind::kNone);
}

// If the rest were looked through for each run this would take minutes.
TEST(FramingTest, CobsLooksOnceAtALargeMessage) {
  const std::string message(std::size_t{32} << 20U, 'x');
  EXPECT_EQ(Encoded(*Cobs(message.size()), message).size(),
            message.size() + message.size() / 254 + 2);
}

TEST(FramingTest, SlipVectors) {
  const std::vector<std::pair<std::string, std::string>> vectors{
      {"a", "a"},
      {"\xc0", "\xdb\xdc"},
      {"\xdb", "\xdb\xdd"},
      {"a\xc0\xdb" + "b"s, "a\xdb\xdc\xdb\xdd" + "b"s},
      {"\xdc\xdd", "\xdc\xdd"},
  };
  const FramingPtr framing = Slip();
  for (const auto& [message, encoded] : vectors) {
    EXPECT_EQ(Encoded(*framing, message), "\xc0" + encoded + "\xc0");
    EXPECT_EQ(Cut(framing, encoded + "\xc0"), Messages{message});
    EXPECT_EQ(Cut(framing, "\xc0\xc0" + encoded + "\xc0\xc0"), Messages{message});
  }
  EXPECT_EQ(KindOf(framing, "\xdb" + "a"s), Kind::kMalformed);
  EXPECT_EQ(KindOf(framing, "\xdb\xc0"), Kind::kMalformed);
  EXPECT_EQ(KindOf(framing, "a\xdb"), Kind::kTruncated);
  EXPECT_NE(RefusedMessage(framing, ""), "");
  EXPECT_EQ(KindOf(Slip(2), "\xdb\xdc\xdb\xdd\xc0"), Kind::kNone) << "decoded it is short enough";
  EXPECT_EQ(KindOf(Slip(2), "abc"), Kind::kTooLong);
}

TEST(FramingTest, AnyBytesArriveAsTheyWereSent) {
  Messages messages{Bytes(0, 255), std::string(600, '\0'), std::string(600, '\xc0'),
                    std::string(600, '\xdb'), "x"};
  std::uint32_t state = 7;
  for (std::size_t i = 0; i < 300; ++i) {
    std::string message(1 + i * 3, '\0');
    for (char& c : message) c = static_cast<char>((state = state * 1103515245 + 12345) >> 16U);
    messages.push_back(message);
  }
  for (const FramingPtr& framing :
       {LengthPrefix(), Length(8, -8), VarintPrefix(), Netstring(), Cobs(), Slip()}) {
    EXPECT_EQ(Cut(framing, AllEncoded(*framing, messages)), messages);
  }
}

// ---- The sentences.

TEST(FramingTest, AFaultIsDescribed) {
  EXPECT_EQ(FaultOf(Length(4), "\0\0\x03\xe9"s).Describe(),
            "a message of 1001 bytes was announced; the framing allows 1000 (max_size)");
  EXPECT_NE(FaultOf(Delimiter({"\n"}, false, 5), "123456").Describe().find("longer than the 5"),
            std::string::npos);
  EXPECT_EQ(FaultOf(Netstring(), "x").Describe(),
            "the bytes received are no message of this framing: a netstring is a length, a colon, "
            "the message and a comma");
  EXPECT_EQ(FaultOf(Netstring(), "1").Describe(), "the peer ended its stream inside a message");
  EXPECT_EQ(FrameFault{}.Describe(), "no fault");
}

TEST(FramingTest, AHeadThatDoesNotFitIsRefused) {
  Frame frame;
  frame.SetHead(std::string(Frame::kMostHead, 'h'));
  EXPECT_EQ(frame.head().size(), Frame::kMostHead);
  EXPECT_THROW(frame.SetHead(std::string(Frame::kMostHead + 1, 'h')), std::invalid_argument);
}

}  // namespace
}  // namespace iocp
