#include <algorithm>

#include "iocp/framing.h"
#include "stage/framing/parameters.h"

namespace iocp {
namespace {

constexpr std::size_t kMostBytes = 10;  // of 64 bits, 7 in each

class VarintFramer final : public Framer {
 public:
  explicit VarintFramer(std::size_t max_size) : max_size_(max_size) {}

  FrameCut Cut(std::string_view bytes, bool) override {
    std::uint64_t length = 0;
    const std::size_t most = std::min(bytes.size(), kMostBytes);
    for (std::size_t i = 0; i < most; ++i) {
      const auto byte = static_cast<unsigned char>(bytes[i]);
      if (i == kMostBytes - 1 && byte > 1) return FrameCut::Malformed();  // more than 64 bits
      length |= std::uint64_t{byte & 0x7fU} << 7U * i;
      if ((byte & 0x80U) == 0) return Found(bytes, i + 1, length);
    }
    return FrameCut::More();
  }

 private:
  [[nodiscard]] FrameCut Found(std::string_view bytes, std::size_t header,
                               std::uint64_t length) const {
    if (length > max_size_) return FrameCut::TooLong(max_size_, length);
    const auto size = static_cast<std::size_t>(length);
    const std::size_t used = header + size;
    return bytes.size() < used ? FrameCut::Announced(used, header, size)
                               : FrameCut::Message(used, header, size);
  }

  const std::size_t max_size_;
};

class VarintFraming final : public Framing {
 public:
  explicit VarintFraming(std::size_t max_size) : max_size_(max_size) {}
  [[nodiscard]] std::unique_ptr<Framer> MakeFramer() const override {
    return std::make_unique<VarintFramer>(max_size_);
  }
  void Encode(std::string_view message, Frame* frame) const override {
    std::uint64_t rest = message.size();
    std::string head;
    for (; rest > 0x7fU; rest >>= 7U) head += static_cast<char>(0x80U | (rest & 0x7fU));
    head += static_cast<char>(rest);
    frame->SetHead(head);
  }
  [[nodiscard]] std::size_t most_waiting() const override { return kMostBytes; }
  [[nodiscard]] const char* malformation() const override {
    return "the length has more than 64 bits";
  }

 private:
  const std::size_t max_size_;
};

}  // namespace

FramingPtr VarintPrefix(std::size_t max_size) {
  CheckMaxSize(max_size);
  return std::make_shared<VarintFraming>(max_size);
}

}  // namespace iocp
