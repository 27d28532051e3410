#include <algorithm>
#include <cstring>

#include "iocp/framing.h"
#include "stage/framing/parameters.h"

namespace iocp {
namespace {

// The code in front of a run of bytes that are no zeros: the length of the run, itself included. A
// zero follows in the message, but not after the longest run, nor at the end.
constexpr std::size_t kLongest = 0xff;

class CobsFramer final : public Framer {
 public:
  explicit CobsFramer(std::size_t max_size) : max_size_(max_size) {}

  FrameCut Cut(std::string_view bytes, bool) override {
    if (bytes[0] == '\0') {
      const std::size_t end = bytes.find_first_not_of('\0');
      return FrameCut::Skip(std::min(end, bytes.size()));
    }
    while (looked_at_ < bytes.size()) {
      const auto code = static_cast<std::size_t>(static_cast<unsigned char>(bytes[looked_at_]));
      if (code == 0) {
        const std::size_t end = looked_at_;
        const std::size_t decoded = decoded_;
        Reset();
        if (decoded > max_size_) return FrameCut::TooLong(max_size_, std::nullopt);
        return FrameCut::Message(end + 1, 0, end);
      }
      const std::string_view run = bytes.substr(looked_at_ + 1, code - 1);
      const std::size_t good = std::min(run.find('\0'), run.size());
      // The zero of the run before counts now: there is none at the end.
      const std::size_t decoded = decoded_ + (zero_ ? 1 : 0) + good;
      if (decoded > max_size_) return FrameCut::TooLong(max_size_, std::nullopt);
      if (good < run.size()) return FrameCut::Malformed();
      if (run.size() < code - 1) break;
      decoded_ = decoded;
      zero_ = code != kLongest;
      looked_at_ += code;
    }
    return FrameCut::More();
  }

  void Reset() override {
    looked_at_ = 0;
    decoded_ = 0;
    zero_ = false;
  }

  [[nodiscard]] bool decodes() const override { return true; }
  std::size_t Decode(char* data, std::size_t size) override {
    char* to = data;
    for (const char *from = data, *const end = data + size; from != end;) {
      const auto code = static_cast<std::size_t>(static_cast<unsigned char>(*from));
      std::memmove(to, from + 1, code - 1);
      to += code - 1;
      from += code;
      if (code != kLongest && from != end) *to++ = '\0';
    }
    return static_cast<std::size_t>(to - data);
  }

 private:
  const std::size_t max_size_;
  std::size_t looked_at_ = 0;  // where the next code is
  std::size_t decoded_ = 0;    // bytes of the message before, without the zero behind them
  bool zero_ = false;          // true exactly when a zero follows unless the message ends
};

class CobsFraming final : public Framing {
 public:
  explicit CobsFraming(std::size_t max_size) : max_size_(max_size) {}
  [[nodiscard]] std::unique_ptr<Framer> MakeFramer() const override {
    return std::make_unique<CobsFramer>(max_size_);
  }
  void Encode(std::string_view message, Frame* frame) const override;
  [[nodiscard]] std::size_t most_waiting() const override {
    return max_size_ + max_size_ / (kLongest - 1) + 2;
  }
  [[nodiscard]] const char* malformation() const override {
    return "a block ends before its zero byte is due";
  }

 private:
  const std::size_t max_size_;
};

void CobsFraming::Encode(std::string_view message, Frame* frame) const {
  std::string encoded;
  encoded.reserve(message.size() + message.size() / (kLongest - 1) + 2);
  for (bool more = true; more;) {
    const std::string_view ahead = message.substr(0, kLongest - 1);
    const std::size_t run = std::min(ahead.find('\0'), ahead.size());
    encoded += static_cast<char>(run + 1);
    encoded += message.substr(0, run);
    // No zero follows the longest run; a run behind it is needed only for what is left.
    const bool takes_zero = run < kLongest - 1 && run < message.size();
    message.remove_prefix(run + (takes_zero ? 1 : 0));
    more = takes_zero || !message.empty();
  }
  encoded += '\0';
  frame->SetEncoded(std::move(encoded));
}

}  // namespace

FramingPtr Cobs(std::size_t max_size) {
  CheckMaxSize(max_size);
  return std::make_shared<CobsFraming>(max_size);
}

}  // namespace iocp
