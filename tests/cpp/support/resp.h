// A framing of one's own, with a state: arrays of bulk strings, as clients of Redis send them. It
// remembers which element it has come to, so that no byte is looked at twice.
#pragma once

#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

#include "iocp/framing.h"

namespace iocp::testing {

class RespFramer final : public Framer {
 public:
  FrameCut Cut(std::string_view bytes, bool) override {
    if (at_ == 0) {
      const long count = Number(bytes, '*');
      if (count < 0) return Waiting(count);
      elements_ = count;
    }
    for (; elements_ > 0; --elements_) {
      const std::size_t begin = at_;
      const long size = Number(bytes, '$');
      if (size < 0) return Waiting(size);
      const std::size_t end = at_ + static_cast<std::size_t>(size);
      if (bytes.size() < end + 2) {
        at_ = begin;
        return FrameCut::More();
      }
      if (bytes.substr(end, 2) != "\r\n") return FrameCut::Malformed();
      at_ = end + 2;
    }
    const std::size_t used = at_;
    Reset();
    return FrameCut::Message(used, 0, used);
  }
  void Reset() override {
    at_ = 0;
    elements_ = 0;
  }

 private:
  static constexpr long kMore = -1;
  static constexpr long kBad = -2;

  static FrameCut Waiting(long why) {
    return why == kMore ? FrameCut::More() : FrameCut::Malformed();
  }
  // The number in the line at at_, which moves behind it.
  long Number(std::string_view bytes, char kind) {
    const std::string_view rest = bytes.substr(at_);
    if (rest.empty()) return kMore;
    if (rest[0] != kind) return kBad;
    long number = 0;
    for (std::size_t i = 1; i < rest.size(); ++i) {
      if (rest[i] == '\r') {
        if (i == 1) return kBad;
        if (i + 1 == rest.size()) return kMore;
        if (rest[i + 1] != '\n') return kBad;
        at_ += i + 2;
        return number;
      }
      if (rest[i] < '0' || rest[i] > '9' || i > 7) return kBad;
      number = number * 10 + (rest[i] - '0');
    }
    return kMore;
  }

  std::size_t at_ = 0;  // what is before has been looked at
  long elements_ = 0;   // to come
};

// A message is the whole array.
class RespFraming final : public Framing {
 public:
  [[nodiscard]] std::unique_ptr<Framer> MakeFramer() const override {
    return std::make_unique<RespFramer>();
  }
  void Encode(std::string_view message, Frame*) const override {
    RespFramer framer;
    if (message.empty() || framer.Cut(message, true).used != message.size()) {
      throw std::invalid_argument("a message is an array of bulk strings");
    }
  }
  [[nodiscard]] std::size_t most_waiting() const override { return std::size_t{1} << 20U; }
};

}  // namespace iocp::testing
