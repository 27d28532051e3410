// A stage for tests, and the client's end of it. It does whatever a stage may do: it changes bytes
// and their number, holds some back, sends by itself, lets OnConnectionEstablished wait, adds an
// end of its own to the stream, and fails.
//
// On the wire, in both directions: a greeting; then bytes, each changed by kMask, of which the
// escape is followed by what it means: kLiteral for itself, kEnd, kPing, kPoison.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "port/peer.h"
#include "stage/stage.h"
#include "stream/buffer_pool.h"

namespace iocp::testing {

class Scrambling {
 public:
  static constexpr std::string_view kClientGreeting = "HELO";
  static constexpr std::string_view kServerGreeting = "hi";
  static constexpr char kMask = 0x5a;
  static constexpr char kEscape = '\xff';
  static constexpr char kLiteral = '0';
  static constexpr char kEnd = '1';
  static constexpr char kPing = '2';    // means nothing
  static constexpr char kPoison = '3';  // makes the stage fail

  // Error::code of its failures.
  static constexpr int kPoisoned = 1001;
  static constexpr int kTruncated = 1002;
  static constexpr int kNoGreeting = 1003;

  static std::string Encode(std::string_view bytes) {
    std::string encoded;
    encoded.reserve(bytes.size() + bytes.size() / 64);
    for (const char byte : bytes) {
      const char changed = static_cast<char>(byte ^ kMask);
      encoded += changed;
      if (changed == kEscape) encoded += kLiteral;
    }
    return encoded;
  }
  static std::string Sign(char what) { return {kEscape, what}; }

  // One direction, decoded.
  class Decoder {
   public:
    explicit Decoder(std::string_view greeting) : greeting_(greeting) {}

    [[nodiscard]] bool greeted() const { return seen_ == greeting_.size(); }
    [[nodiscard]] bool ended() const { return ended_; }
    [[nodiscard]] int failure() const { return failure_; }  // 0: there is none

    std::string Decode(std::string_view wire) {
      std::string bytes;
      for (const char byte : wire) {
        if (failure_ != 0 || ended_) break;
        if (!greeted()) {
          if (byte != greeting_[seen_++]) failure_ = kNoGreeting;
        } else if (std::exchange(escaped_, false)) {
          if (byte == kLiteral) bytes += static_cast<char>(kEscape ^ kMask);
          if (byte == kEnd) ended_ = true;
          if (byte == kPoison) failure_ = kPoisoned;
        } else if (byte == kEscape) {
          escaped_ = true;
        } else {
          bytes += static_cast<char>(byte ^ kMask);
        }
      }
      return bytes;
    }

   private:
    const std::string_view greeting_;
    std::size_t seen_ = 0;  // bytes of the greeting
    bool escaped_ = false;  // true exactly when the last byte was an escape
    bool ended_ = false;
    int failure_ = 0;
  };
};

// The server's end.
class Scrambler final : public Stage {
 public:
  Error Begin(Output& output) override {
    output.Down(Scrambling::kServerGreeting.data(), Scrambling::kServerGreeting.size());
    return {};
  }

  Error Receive(Buffer bytes, Output& output) override {
    if (Error error = GiveUp(output)) return error;
    received_ += bytes.size();
    while (received_ >= kPingEvery) {
      received_ -= kPingEvery;
      Put(Scrambling::Sign(Scrambling::kPing), output);
    }
    std::string decoded = decoder_.Decode(bytes.view());
    // The last byte waits for the next call, so that something always does.
    if (!decoded.empty() && !decoder_.ended() && decoder_.failure() == 0) {
      held_back_ = decoded.back();
      decoded.pop_back();
      holds_back_ = true;
    }
    if (Error error = Up(decoded, output)) return error;
    if (decoder_.failure() != 0) return {ErrorKind::kOther, decoder_.failure()};
    if (decoder_.ended()) output.EndUp();
    return {};
  }

  Error EndReceive(Output& output) override {
    if (Error error = GiveUp(output)) return error;
    return {ErrorKind::kOther, Scrambling::kTruncated};
  }

  Error Send(const Piece* pieces, std::size_t count, std::size_t* taken, Output& output) override {
    if (Error error = GiveUp(output)) return error;
    // Not all at once, and not whole sends.
    for (std::size_t i = 0; i < count && *taken < kMostTaken; ++i) {
      const std::size_t size = std::min(pieces[i].size, kMostTaken - *taken);
      Put(Scrambling::Encode({static_cast<const char*>(pieces[i].data), size}), output);
      *taken += size;
    }
    return {};
  }

  Error EndSend(Output& output) override {
    Put(Scrambling::Sign(Scrambling::kEnd), output);
    return {};
  }

  [[nodiscard]] bool ready() const override { return decoder_.greeted(); }

 private:
  static constexpr std::size_t kMostTaken = 1000;
  static constexpr std::size_t kPingEvery = 500;

  static void Put(const std::string& bytes, Output& output) {
    output.Down(bytes.data(), bytes.size());
  }
  static Error Up(std::string_view bytes, Output& output) {
    if (bytes.empty()) return {};
    Buffer buffer = BufferPool::Copy(bytes);
    if (buffer.size() == 0) throw std::bad_alloc();
    output.Up(std::move(buffer));
    return {};
  }
  // Passes on the bytes that it has kept back.
  Error GiveUp(Output& output) {
    if (!std::exchange(holds_back_, false)) return {};
    return Up({&held_back_, 1}, output);
  }

  Scrambling::Decoder decoder_{Scrambling::kClientGreeting};
  std::size_t received_ = 0;  // bytes since the last ping
  char held_back_ = 0;
  bool holds_back_ = false;  // true exactly when held_back_ waits
};

// So many of them, one above the other.
inline std::vector<std::unique_ptr<Stage>> Scramblers(std::size_t count) {
  std::vector<std::unique_ptr<Stage>> stages;
  stages.reserve(count);
  for (std::size_t i = 0; i < count; ++i) stages.push_back(std::make_unique<Scrambler>());
  return stages;
}

// The client's end: a peer that greets, and speaks as the stage does, over a peer that knows of
// nothing.
class ScrambledPeer final : public Peer {
 public:
  explicit ScrambledPeer(std::unique_ptr<Peer> wire)
      : wire_(std::move(wire)), waiting_(Scrambling::kClientGreeting) {
    Flush();
  }
  ~ScrambledPeer() override = default;

  [[nodiscard]] bool greeted() const { return greeted_; }

  // Bytes that were taken and are not out.
  [[nodiscard]] std::size_t waiting() const { return waiting_.size(); }
  // Takes all when what was taken before is out, else nothing.
  std::size_t Send(std::string_view data) override {
    if (!Flush()) return 0;
    waiting_ = Scrambling::Encode(data);
    Flush();
    return data.size();
  }
  // The stage that gets it fails.
  void Poison() {
    waiting_ += Scrambling::Sign(Scrambling::kPoison);
    Flush();
  }
  std::string Receive(std::size_t most) override {
    Flush();
    return decoder_.Decode(wire_->Receive(most));
  }
  // In order only with the end of the stage's stream.
  [[nodiscard]] State state() const override {
    return wire_->state() == State::kEnded && !decoder_.ended() ? State::kReset : wire_->state();
  }
  // Without its own end when the stream is stuck: the stage then gets a truncated one.
  void EndStream() override {
    if (Flush()) {
      waiting_ = Scrambling::Sign(Scrambling::kEnd);
      Flush();
    }
    wire_->EndStream();
  }
  // The stream ends, and the stage's does not.
  void Truncate() { wire_->EndStream(); }
  void Close() override { wire_->Close(); }
  void Reset() override { wire_->Reset(); }
  [[nodiscard]] std::uint16_t port() const override { return wire_->port(); }
  // True exactly when the server ended the stage's stream, and then its own.
  [[nodiscard]] bool ended_in_order() const { return decoder_.ended(); }
  [[nodiscard]] int failure() const { return decoder_.failure(); }

 private:
  // True when nothing waits.
  bool Flush() {
    waiting_.erase(0, wire_->Send(waiting_));
    if (waiting_.empty()) greeted_ = true;
    return waiting_.empty();
  }

  const std::unique_ptr<Peer> wire_;
  std::string waiting_;
  bool greeted_ = false;  // true exactly when the greeting has been sent
  Scrambling::Decoder decoder_{Scrambling::kServerGreeting};
};

}  // namespace iocp::testing
