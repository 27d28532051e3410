#include <algorithm>
#include <array>
#include <limits>

#include "iocp/framing.h"
#include "stage/framing/parameters.h"

namespace iocp {
namespace {

class LengthPrefixFraming final : public Framing {
 public:
  explicit LengthPrefixFraming(const LengthPrefixOptions& options);

  [[nodiscard]] std::unique_ptr<Framer> MakeFramer() const override;
  void Encode(std::string_view message, Frame* frame) const override;
  [[nodiscard]] std::size_t most_waiting() const override { return header_; }
  [[nodiscard]] const char* malformation() const override {
    return "the length is less than what belongs to the header";
  }

  // `bytes` begin where a frame does. `limit`: the most bytes of a message.
  [[nodiscard]] FrameCut Cut(std::string_view bytes, std::uint64_t limit) const;
  [[nodiscard]] std::size_t max_size() const { return options_.max_size; }

 private:
  [[nodiscard]] std::uint64_t ReadLength(const char* field) const;

  const LengthPrefixOptions options_;
  const std::size_t size_;    // bytes of the length field
  const std::size_t header_;  // bytes up to its end
  const std::size_t strip_;
};

class LengthPrefixFramer final : public Framer {
 public:
  explicit LengthPrefixFramer(const LengthPrefixFraming& framing) : framing_(framing) {}
  FrameCut Cut(std::string_view bytes, bool) override {
    return framing_.Cut(bytes, framing_.max_size());
  }

 private:
  const LengthPrefixFraming& framing_;
};

LengthPrefixFraming::LengthPrefixFraming(const LengthPrefixOptions& options)
    : options_(options),
      size_(static_cast<std::size_t>(options.size)),
      header_(options.offset + size_),
      strip_(options.strip.value_or(options.offset == 0 ? size_ : 0)) {}

std::unique_ptr<Framer> LengthPrefixFraming::MakeFramer() const {
  return std::make_unique<LengthPrefixFramer>(*this);
}

std::uint64_t LengthPrefixFraming::ReadLength(const char* field) const {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < size_; ++i) {
    const std::size_t at = options_.little_endian ? size_ - 1 - i : i;
    value = value << 8U | static_cast<unsigned char>(field[at]);
  }
  return value;
}

FrameCut LengthPrefixFraming::Cut(std::string_view bytes, std::uint64_t limit) const {
  if (bytes.size() < header_) return FrameCut::More();
  const std::uint64_t length = ReadLength(bytes.data() + options_.offset);
  // Unsigned and in 64 bits: nothing here may overflow, whatever the peer has written.
  std::uint64_t behind = length;
  if (options_.adjust < 0) {
    const std::uint64_t less = std::uint64_t{0} - static_cast<std::uint64_t>(options_.adjust);
    if (length < less) return FrameCut::Malformed();  // it would end before its header does
    behind -= less;
  } else {
    const auto more = static_cast<std::uint64_t>(options_.adjust);
    const std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
    behind = length > most - more ? most : length + more;
  }
  const std::uint64_t kept = strip_ <= header_ ? header_ - strip_ : 0;
  const std::uint64_t gone = strip_ <= header_ ? 0 : strip_ - header_;  // of what is behind
  if (behind < gone) return FrameCut::Malformed();
  const std::uint64_t rest = behind - gone;
  if (rest > limit || rest + kept > limit) {
    const std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
    return FrameCut::TooLong(limit, rest > most - kept ? most : rest + kept);
  }
  const auto size = static_cast<std::size_t>(rest + kept);
  const std::size_t used = size + strip_;
  return bytes.size() < used ? FrameCut::Announced(used, strip_, size)
                             : FrameCut::Message(used, strip_, size);
}

void LengthPrefixFraming::Encode(std::string_view message, Frame* frame) const {
  if (strip_ == 0) {
    const FrameCut cut = message.empty() ? FrameCut::More() : Cut(message, message.size());
    if (cut.kind == FrameCut::Kind::kMessage && cut.used == message.size()) return;
    throw std::invalid_argument(
        "nothing is stripped from the messages of this framing, so one to be sent must begin with "
        "its header, and the length in that must be right");
  }
  if (options_.offset != 0 || strip_ != size_) {
    throw std::invalid_argument(
        "a message lacks bytes that the framing has stripped and that it cannot make again: send "
        "the whole frame with send()");
  }
  const auto size = static_cast<std::uint64_t>(message.size());
  const std::uint64_t less = static_cast<std::uint64_t>(options_.adjust);
  if (options_.adjust > 0 && size < less) {
    throw std::invalid_argument("with adjust=" + std::to_string(less) +
                                " a message has at least as many bytes, not " +
                                std::to_string(size));
  }
  // Modulo 2 to the 64th: right for a negative `adjust` too.
  const std::uint64_t length = size - less;
  const std::uint64_t most =
      size_ == 8 ? std::numeric_limits<std::uint64_t>::max() : (std::uint64_t{1} << size_ * 8U) - 1;
  if (length > most) {
    throw std::invalid_argument("a length field of " + std::to_string(size_) +
                                " bytes cannot carry a message of " + std::to_string(size) +
                                " bytes");
  }
  std::array<char, 8> field;
  for (std::size_t i = 0; i < size_; ++i) {
    const std::size_t shift = 8 * (options_.little_endian ? i : size_ - 1 - i);
    field[i] = static_cast<char>(length >> shift & 0xffU);
  }
  frame->SetHead({field.data(), size_});
}

}  // namespace

FramingPtr LengthPrefix(const LengthPrefixOptions& options) {
  constexpr std::int64_t kMostAdjusted = std::int64_t{1} << 40U;
  CheckMaxSize(options.max_size);
  if (const int size = options.size;
      size != 1 && size != 2 && size != 3 && size != 4 && size != 8) {
    throw std::invalid_argument("size must be 1, 2, 3, 4 or 8, not " + std::to_string(size));
  }
  CheckParameter("offset", options.offset, 0, 1024);
  CheckParameter("adjust", options.adjust, -kMostAdjusted, kMostAdjusted);
  CheckParameter("strip", options.strip.value_or(0), 0, 2048);
  return std::make_shared<LengthPrefixFraming>(options);
}

}  // namespace iocp
