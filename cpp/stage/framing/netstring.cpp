#include "iocp/framing.h"
#include "stage/framing/parameters.h"

namespace iocp {
namespace {

constexpr std::size_t kMostDigits = 13;  // of kLargestMessage

class NetstringFramer final : public Framer {
 public:
  explicit NetstringFramer(std::size_t max_size) : max_size_(max_size) {}

  FrameCut Cut(std::string_view bytes, bool) override {
    std::uint64_t length = 0;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      const char c = bytes[i];
      if (c == ':' && i != 0) return Found(bytes, i + 1, length);
      // A length has no leading zero, but for 0 itself.
      if (c < '0' || c > '9' || (i != 0 && bytes[0] == '0')) return FrameCut::Malformed();
      length = length * 10 + static_cast<std::uint64_t>(c - '0');
      if (length > max_size_) {
        // The rest of the digits may not have come.
        return FrameCut::TooLong(max_size_, std::nullopt);
      }
    }
    return FrameCut::More();
  }
  bool EndsWell(std::string_view trailer) override { return trailer == ","; }

 private:
  [[nodiscard]] static FrameCut Found(std::string_view bytes, std::size_t header,
                                      std::uint64_t length) {
    const auto size = static_cast<std::size_t>(length);
    const std::size_t used = header + size + 1;
    if (bytes.size() < used) return FrameCut::Announced(used, header, size);
    if (bytes[used - 1] != ',') return FrameCut::Malformed();
    return FrameCut::Message(used, header, size);
  }

  const std::size_t max_size_;
};

class NetstringFraming final : public Framing {
 public:
  explicit NetstringFraming(std::size_t max_size) : max_size_(max_size) {}
  [[nodiscard]] std::unique_ptr<Framer> MakeFramer() const override {
    return std::make_unique<NetstringFramer>(max_size_);
  }
  void Encode(std::string_view message, Frame* frame) const override {
    frame->SetHead(std::to_string(message.size()) + ':');
    frame->SetTail(",");
  }
  [[nodiscard]] std::size_t most_waiting() const override { return kMostDigits; }
  [[nodiscard]] const char* malformation() const override {
    return "a netstring is a length, a colon, the message and a comma";
  }

 private:
  const std::size_t max_size_;
};

}  // namespace

FramingPtr Netstring(std::size_t max_size) {
  CheckMaxSize(max_size);
  return std::make_shared<NetstringFraming>(max_size);
}

}  // namespace iocp
