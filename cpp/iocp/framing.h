// How a stream of bytes is cut into messages, and how messages are sent.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace iocp {

// Why the bytes of a peer are not a message.
struct FrameFault {
  enum class Kind : std::uint8_t {
    kNone,
    kTooLong,    // longer than the framing allows
    kMalformed,  // not what the framing asks for
    kTruncated,  // the stream has ended inside a message
  };
  Kind kind = Kind::kNone;
  // kTooLong: the announced length of the message, if one was announced.
  std::optional<std::uint64_t> announced;
  // kTooLong: the most bytes that a message may have.
  std::uint64_t limit = 0;
  // kMalformed: what is wrong, a sentence; see Framing::malformation. Lives as long as the framing.
  const char* detail = "";

  // A sentence for whoever reads a log.
  [[nodiscard]] std::string Describe() const;
};

// The answer of a framer about the front of a stream.
struct FrameCut {
  enum class Kind : std::uint8_t {
    kMore,     // the message is not complete
    kMessage,  // it is
    kSkip,     // the first `used` bytes are part of no message
    kFault,    // the stream cannot be cut any more: see fault()
  };
  Kind kind = Kind::kMore;
  // kMessage, kSkip: the bytes that are done with, never none. kMore: those that the frame takes in
  // all, when it is known; otherwise 0.
  std::size_t used = 0;
  // kMessage, and kMore with `used`: where the message is in the frame. kFault, for a message that
  // is too long: the bytes that are allowed, and those that were announced, or 0.
  std::size_t begin = 0;
  std::size_t size = 0;

  static FrameCut More() { return {}; }
  static FrameCut Announced(std::size_t used, std::size_t begin, std::size_t size) {
    return {Kind::kMore, used, begin, size};
  }
  static FrameCut Message(std::size_t used, std::size_t begin, std::size_t size) {
    return {Kind::kMessage, used, begin, size};
  }
  static FrameCut Skip(std::size_t used) { return {Kind::kSkip, used, 0, 0}; }
  // `announced`: the bytes of the message; none: no length was. `limit`: what is allowed.
  static FrameCut TooLong(std::uint64_t limit, std::optional<std::uint64_t> announced) {
    return {Kind::kFault, 0, static_cast<std::size_t>(limit),
            static_cast<std::size_t>(std::min<std::uint64_t>(
                announced.value_or(0), std::numeric_limits<std::size_t>::max()))};
  }
  static FrameCut Malformed() { return {Kind::kFault, 0, 0, 0}; }

  // Why it is kFault.
  [[nodiscard]] FrameFault fault() const;
};

// Cuts the stream of one connection. One thread at a time calls it, with no lock held and without
// the GIL or with it. It must not block, nor throw anything but std::bad_alloc.
class Framer {
 public:
  Framer() = default;
  Framer(const Framer&) = delete;
  Framer& operator=(const Framer&) = delete;
  virtual ~Framer() = default;

  // Looks at `bytes`, never none, which begin where a message does. After kMore it is called with
  // the same bytes and more behind them, so it may remember how far it has looked. When `used` was
  // given it is called again with just so many bytes, or, for a large message, not at all: see
  // EndsWell. `last`: true exactly when no more bytes will follow.
  virtual FrameCut Cut(std::string_view bytes, bool last) = 0;
  // The next call of Cut gets bytes from the beginning of a message, perhaps one that was looked at
  // before: forget what was remembered.
  virtual void Reset() {}
  // Whether `trailer`, the bytes behind a large message in its frame, is right.
  virtual bool EndsWell(std::string_view trailer) {
    static_cast<void>(trailer);
    return true;
  }
  // True exactly when messages are to be decoded. Asked once, when the framer is new.
  [[nodiscard]] virtual bool decodes() const { return false; }
  // Decodes a message that Cut has found, in place, where decodes() is true. Returns its size, at
  // most `size`.
  virtual std::size_t Decode(char* data, std::size_t size) {
    static_cast<void>(data);
    return size;
  }
};

// A message as it is sent: a head, the message or what it is encoded to, a tail.
class Frame {
 public:
  static constexpr std::size_t kMostHead = 24;

  // Throws std::invalid_argument for more than kMostHead bytes.
  void SetHead(std::string_view bytes) {
    if (bytes.size() > kMostHead) RefuseHead(bytes.size());
    head_size_ = bytes.size();
    std::copy(bytes.begin(), bytes.end(), head_.begin());
  }
  // Is not copied: memory of the framing.
  void SetTail(std::string_view bytes) { tail_ = bytes; }
  // Sent instead of the message.
  void SetEncoded(std::string bytes) {
    encoded_ = std::move(bytes);
    is_encoded_ = true;
  }

  [[nodiscard]] std::string_view head() const { return {head_.data(), head_size_}; }
  [[nodiscard]] std::string_view tail() const { return tail_; }
  [[nodiscard]] bool is_encoded() const { return is_encoded_; }
  [[nodiscard]] std::string_view BodyOf(std::string_view message) const {
    return is_encoded_ ? std::string_view(encoded_) : message;
  }

 private:
  [[noreturn]] static void RefuseHead(std::size_t size);

  std::array<char, kMostHead> head_;
  std::size_t head_size_ = 0;
  std::string_view tail_;
  bool is_encoded_ = false;  // true exactly when SetEncoded was called
  std::string encoded_;
};

// A way to cut streams into messages. Immutable; any number of connections and threads share one.
// The functions below make those that are built in. Derive from it and from Framer for one of your
// own.
class Framing {
 public:
  Framing() = default;
  Framing(const Framing&) = delete;
  Framing& operator=(const Framing&) = delete;
  virtual ~Framing() = default;

  // For a new connection. May throw std::bad_alloc.
  [[nodiscard]] virtual std::unique_ptr<Framer> MakeFramer() const = 0;
  // How `message` is sent; `frame` is new. Throws std::invalid_argument, with a sentence, for one
  // that a peer with this framing would cut in another way; or std::bad_alloc. A limit for what is
  // received does not count here.
  virtual void Encode(std::string_view message, Frame* frame) const = 0;
  // The most bytes that wait for the rest of a frame whose length is not known. It bounds what a
  // peer can make grow, whatever the framer says: with more the message is too long.
  [[nodiscard]] virtual std::size_t most_waiting() const = 0;
  // A sentence for FrameFault::detail, about bytes that its framers call malformed. It lives as
  // long as the framing.
  [[nodiscard]] virtual const char* malformation() const { return "the framer refused them"; }
};

using FramingPtr = std::shared_ptr<const Framing>;

// --- The framings that are built in. Each function throws std::invalid_argument, with a sentence
// that names the parameter, for a value out of range. `max_size`: the most bytes of a received
// message as the hook gets it, 1 to 1 TiB; it is compared with the announced length.

inline constexpr std::size_t kDefaultMaxMessage = 1024 * 1024;
inline constexpr std::size_t kDefaultMaxLine = 64 * 1024;

// A length in front of each message. The options are those of Netty's LengthFieldBasedFrameDecoder.
struct LengthPrefixOptions {
  int size = 4;  // bytes of the length: 1, 2, 3, 4 or 8
  bool little_endian = false;
  std::size_t offset = 0;  // bytes in front of the length, 0 to 1024
  // Added to the length, which then counts the bytes behind the length field. A length that counts
  // the whole frame needs -(offset + size).
  std::int64_t adjust = 0;
  // Bytes that are removed from the front of the frame, 0 to 2048. By default the whole header when
  // `offset` is 0, else none.
  std::optional<std::size_t> strip;
  std::size_t max_size = kDefaultMaxMessage;
};
FramingPtr LengthPrefix(const LengthPrefixOptions& options = {});

// A delimiter behind each message; the earliest counts, and of those that begin at one place the
// longest. There are 1 to 16, of 1 to 64 bytes; the first is the one that is sent. `keep`: true
// exactly when a message keeps its delimiter, which `max_size` does not count.
FramingPtr Delimiter(std::vector<std::string> delimiters, bool keep = false,
                     std::size_t max_size = kDefaultMaxLine);

// Messages of `size` bytes each, 1 to 1 GiB.
FramingPtr FixedSize(std::size_t size);

// A varint in front of each message, as protobuf writes it: 7 bits a byte, low ones first, at most
// 10 bytes.
FramingPtr VarintPrefix(std::size_t max_size = kDefaultMaxMessage);

// D. J. Bernstein's netstrings: the length in decimal digits, a colon, the message, a comma.
FramingPtr Netstring(std::size_t max_size = kDefaultMaxMessage);

// Consistent Overhead Byte Stuffing (Cheshire and Baker): no zero in the message, one behind it.
// Zeros with nothing between them are skipped.
FramingPtr Cobs(std::size_t max_size = kDefaultMaxLine);

// RFC 1055: an END (0xC0) behind each message, and, when we send, in front of it. Two ENDs with
// nothing between them are skipped, so there is no empty message.
FramingPtr Slip(std::size_t max_size = kDefaultMaxLine);

}  // namespace iocp
