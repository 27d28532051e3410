#include <algorithm>

#include "iocp/framing.h"
#include "stage/framing/parameters.h"

namespace iocp {
namespace {

constexpr char kEnd = '\xC0';
constexpr char kEscape = '\xDB';
constexpr char kEscapedEnd = '\xDC';
constexpr char kEscapedEscape = '\xDD';

class SlipFramer final : public Framer {
 public:
  explicit SlipFramer(std::size_t max_size) : max_size_(max_size) {}

  FrameCut Cut(std::string_view bytes, bool) override {
    if (bytes[0] == kEnd) {
      const std::size_t end = bytes.find_first_not_of(kEnd);
      return FrameCut::Skip(std::min(end, bytes.size()));
    }
    for (; looked_at_ < bytes.size(); ++looked_at_) {
      const char c = bytes[looked_at_];
      if (c == kEnd) {
        const std::size_t end = looked_at_;
        Reset();
        return FrameCut::Message(end + 1, 0, end);
      }
      if (c == kEscape) {
        if (looked_at_ + 1 == bytes.size()) break;
        const char escaped = bytes[looked_at_ + 1];
        if (escaped != kEscapedEnd && escaped != kEscapedEscape) return FrameCut::Malformed();
        ++looked_at_;
      }
      if (++decoded_ > max_size_) return FrameCut::TooLong(max_size_, std::nullopt);
    }
    return FrameCut::More();
  }

  void Reset() override {
    looked_at_ = 0;
    decoded_ = 0;
  }

  [[nodiscard]] bool decodes() const override { return true; }
  std::size_t Decode(char* data, std::size_t size) override {
    char* to = data;
    for (const char *from = data, *const end = data + size; from != end; ++from) {
      if (*from != kEscape) {
        *to++ = *from;
      } else {
        *to++ = *++from == kEscapedEnd ? kEnd : kEscape;
      }
    }
    return static_cast<std::size_t>(to - data);
  }

 private:
  const std::size_t max_size_;
  std::size_t looked_at_ = 0;
  std::size_t decoded_ = 0;  // bytes of the message up to there
};

class SlipFraming final : public Framing {
 public:
  explicit SlipFraming(std::size_t max_size) : max_size_(max_size) {}
  [[nodiscard]] std::unique_ptr<Framer> MakeFramer() const override {
    return std::make_unique<SlipFramer>(max_size_);
  }
  void Encode(std::string_view message, Frame* frame) const override {
    if (message.empty()) throw std::invalid_argument("SLIP has no empty message");
    std::string encoded(1, kEnd);
    encoded.reserve(message.size() + message.size() / 8 + 2);
    for (const char c : message) {
      if (c != kEnd && c != kEscape) {
        encoded += c;
      } else {
        encoded += kEscape;
        encoded += c == kEnd ? kEscapedEnd : kEscapedEscape;
      }
    }
    encoded += kEnd;
    frame->SetEncoded(std::move(encoded));
  }
  [[nodiscard]] std::size_t most_waiting() const override { return 2 * max_size_ + 1; }
  [[nodiscard]] const char* malformation() const override {
    return "the escape byte 0xDB is followed by neither 0xDC nor 0xDD";
  }

 private:
  const std::size_t max_size_;
};

}  // namespace

FramingPtr Slip(std::size_t max_size) {
  CheckMaxSize(max_size);
  return std::make_shared<SlipFraming>(max_size);
}

}  // namespace iocp
