// A stream of messages without a connection: how it is sent, and what a receiver makes of it.
#pragma once

#include <cstddef>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "iocp/framing.h"
#include "iocp/message.h"
#include "stage/framing/message_cutter.h"
#include "stream/buffer_pool.h"

namespace iocp::testing {

// As a connection sends it.
inline std::string Encoded(const Framing& framing, std::string_view message) {
  Frame frame;
  framing.Encode(message, &frame);
  std::string wire(frame.head());
  wire += frame.BodyOf(message);
  wire += frame.tail();
  return wire;
}

inline std::string AllEncoded(const Framing& framing, const std::vector<std::string>& messages) {
  std::string wire;
  for (const std::string& message : messages) wire += Encoded(framing, message);
  return wire;
}

// A receive: a block of a pool's size of which some bytes came.
inline Buffer Received(std::string_view bytes, std::size_t block_size) {
  char* memory = nullptr;
  const Buffer block = BufferPool::Allocate(block_size, &memory);
  std::memcpy(memory, bytes.data(), bytes.size());
  return block.Slice(0, bytes.size());
}

// Does what a session does with what it receives.
class FramedReader {
 public:
  static constexpr std::size_t kAll = std::numeric_limits<std::size_t>::max();

  // `most`: messages in one list.
  explicit FramedReader(FramingPtr framing, std::size_t most = kAll)
      : cutter_(std::move(framing)), most_(most) {}

  void Receive(std::string_view bytes) { Receive(BufferPool::Copy(bytes)); }
  void Receive(Buffer bytes) {
    while (bytes.size() != 0 && !failed()) Step(bytes, false);
  }
  // Nothing more will come.
  void End() {
    Buffer none;
    while (cutter_.inside() && !failed()) {
      const std::size_t kept = cutter_.kept();
      Step(none, true);
      if (cutter_.kept() == kept && !failed()) fault_ = {FrameFault::Kind::kTruncated, {}, 0};
    }
  }

  [[nodiscard]] const std::vector<std::string>& messages() const { return messages_; }
  [[nodiscard]] const FrameFault& fault() const { return fault_; }
  [[nodiscard]] bool failed() const { return fault_.kind != FrameFault::Kind::kNone; }
  // In one word, to compare.
  [[nodiscard]] std::string outcome() const {
    std::string all;
    for (const std::string& message : messages_) {
      all += std::to_string(message.size()) + ":" + message + ",";
    }
    return all + " " + (failed() ? fault_.Describe() : "");
  }
  [[nodiscard]] MessageCutter& cutter() { return cutter_; }

 private:
  void Step(Buffer& bytes, bool last) {
    std::vector<Message> found;
    const MessageCutter::Cuts cuts = cutter_.Cut(bytes, most_, last, &found);
    if (found.empty() && cuts.fault) {
      fault_ = cutter_.fault();
    } else if (found.empty() && cuts.used == 0) {
      cutter_.Keep(std::exchange(bytes, Buffer()));
    } else {
      cutter_.Decode(found);
      for (Message& message : found) messages_.emplace_back(message.view());
      cutter_.Consume(bytes, cuts.used);
    }
  }

  MessageCutter cutter_;
  const std::size_t most_;
  std::vector<std::string> messages_;
  FrameFault fault_;
};

}  // namespace iocp::testing
