// Large messages for a cutter, and receives of their parts.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "stage/framing/message_cutter.h"
#include "support/framed.h"

namespace iocp::testing {

inline constexpr std::size_t kKiB = 1024;
inline constexpr std::size_t kMiB = kKiB * kKiB;

inline std::string Numbers(std::size_t size) {
  std::string bytes(size, '\0');
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 7 + i / 251);
  return bytes;
}

// Receives `wire` in blocks that have `each` bytes of their `block_size`, until a message is found.
// It is handed to `look` before it is consumed.
inline void ReceiveOne(MessageCutter& cutter, std::string_view wire, std::size_t each,
                       std::size_t block_size, const std::function<void(Message&)>& look) {
  bool found_one = false;
  while (!wire.empty()) {
    Buffer bytes = Received(wire.substr(0, each), block_size);
    wire.remove_prefix(bytes.size());
    while (bytes.size() != 0) {
      std::vector<Message> found;
      const MessageCutter::Cuts cuts = cutter.Cut(bytes, 1, false, &found);
      if (found.empty()) {
        ASSERT_FALSE(cuts.fault);
        if (cuts.used != 0) {
          cutter.Consume(bytes, cuts.used);
        } else {
          cutter.Keep(std::exchange(bytes, Buffer()));
        }
        continue;
      }
      found_one = true;
      cutter.Decode(found);
      look(found.front());
      cutter.Consume(bytes, cuts.used);
    }
  }
  EXPECT_TRUE(found_one);
  EXPECT_FALSE(cutter.inside());
}

struct Large {
  FramingPtr framing;
  std::size_t size;
};

inline std::vector<Large> LargeOnes() {
  LengthPrefixOptions kept;
  kept.strip = 2;
  kept.max_size = 4 * kMiB;
  return {{LengthPrefix(), 200'000},
          {LengthPrefix(), 33 * kKiB},
          {LengthPrefix(kept), 200'000},
          {VarintPrefix(), kMiB},
          {Netstring(), 100'000},
          {FixedSize(70'000), 70'000},
          {Delimiter({"\r\n"}), 60'000},
          {Cobs(), 60'000},
          {Slip(), 60'000}};
}

// A message as the hook gets it, and its frame.
inline std::pair<std::string, std::string> MessageAndFrame(const Large& large) {
  std::string message = Numbers(large.size);
  std::replace(message.begin(), message.end(), '\r', ' ');
  try {
    return {message, Encoded(*large.framing, message)};
  } catch (const std::invalid_argument&) {
    // A part of the header is left.
    std::string frame(std::string("\0\3\x0d\x40", 4) + Numbers(200'000));
    return {frame.substr(2), frame};
  }
}

}  // namespace iocp::testing
