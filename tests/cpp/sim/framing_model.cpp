#include "framing_model.h"

#include <algorithm>
#include <utility>

namespace iocp::sim {
namespace {

using Cut = FramingModel::Cut;

// Small ones, so that messages are too long once in a while, and those that nobody reaches.
std::size_t DrawMaxSize(Choices& choices) {
  return choices.OneOf<std::size_t>({1, 3, 300, 5000, 70'000, 1'000'000, 1'000'000, 1'000'000});
}

// ---- A length in front of each message: the documented options of Netty's decoder.

class LengthModel final : public FramingModel {
 public:
  explicit LengthModel(Choices& choices) {
    options_.size = choices.OneOf({1, 2, 3, 4, 8});
    options_.little_endian = choices.Chance(0.5);
    options_.max_size = max_size_ = DrawMaxSize(choices);
    if (choices.Chance(0.4)) {
      options_.offset = choices.Below(6);
      options_.adjust = choices.OneOf<std::int64_t>(
          {0, 1, 3, -1, -static_cast<std::int64_t>(options_.offset) - options_.size});
    }
    if (choices.Chance(0.3)) options_.strip = choices.Below(12);
    framing_ = LengthPrefix(options_);
  }

  [[nodiscard]] Cut First(std::string_view bytes, bool) const override {
    return testing::FrontOfLengthPrefix(bytes, options_);
  }

  [[nodiscard]] std::optional<std::string> FrameOf(std::string_view message) const override {
    if (Strip() == 0) {
      LengthPrefixOptions unlimited = options_;
      unlimited.max_size = message.size();
      const Cut cut = testing::FrontOfLengthPrefix(message, unlimited);
      if (cut.kind != Cut::Kind::kMessage || cut.used != message.size()) return std::nullopt;
      return std::string(message);
    }
    if (options_.offset != 0 || Strip() != Size()) return std::nullopt;
    const std::optional<std::string> field = Field(message.size());
    return field ? std::optional(*field + std::string(message)) : std::nullopt;
  }

  [[nodiscard]] std::string DrawMessage(Choices& choices, std::size_t size) const override {
    return Strip() == 0 ? DrawFrame(choices, size) : DrawBytes(choices, size);
  }

  [[nodiscard]] std::string DrawFrame(Choices& choices, std::size_t size) const override {
    if (choices.Chance(0.9)) size = std::min(size, max_size_);
    const std::size_t header = options_.offset + Size();
    const std::size_t frame = std::max(size + Strip(), header);
    std::optional<std::string> field = Field(frame - header);
    if (!field) field = Field(0);
    if (!field) field = std::string(Size(), '\1');
    return DrawBytes(choices, options_.offset) + *field + DrawBytes(choices, frame - header);
  }

 private:
  [[nodiscard]] std::size_t Size() const { return static_cast<std::size_t>(options_.size); }
  [[nodiscard]] std::size_t Strip() const { return testing::StripOf(options_); }
  // The field of a frame with so many bytes behind it.
  [[nodiscard]] std::optional<std::string> Field(std::size_t behind) const {
    __int128 length = static_cast<__int128>(behind) - options_.adjust;
    if (length < 0) return std::nullopt;
    std::string field;
    for (std::size_t i = 0; i < Size(); ++i, length /= 256) {
      field += static_cast<char>(static_cast<unsigned char>(length % 256));
    }
    if (length != 0) return std::nullopt;
    if (!options_.little_endian) std::reverse(field.begin(), field.end());
    return field;
  }

  LengthPrefixOptions options_;
};

// ---- Delimiters: the earliest counts, and of those that begin at one place the longest.

class DelimiterModel final : public FramingModel {
 public:
  explicit DelimiterModel(Choices& choices) : keep_(choices.Chance(0.3)) {
    max_size_ = DrawMaxSize(choices);
    const std::size_t count = choices.Between(1, 3);
    for (std::size_t i = 0; i < count; ++i) {
      delimiters_.push_back(choices.OneOf<const char*>(
          {"\n", "\r\n", "\r", "a", "ab", "aab", "abab", "abcd", "aaaa", "b", "\xC0"}));
    }
    framing_ = Delimiter(delimiters_, keep_, max_size_);
  }

  [[nodiscard]] Cut First(std::string_view bytes, bool last) const override {
    return testing::FrontOfDelimiter(bytes, delimiters_, keep_, max_size_, last);
  }

  // Whatever is sent before and behind it, it has to be found as it is.
  [[nodiscard]] std::optional<std::string> FrameOf(std::string_view message) const override {
    const std::string& first = delimiters_[0];
    const std::string frame = std::string(message) + (keep_ ? "" : first);
    const testing::DelimiterPlace found = Find(frame);
    if (found.size == 0) return std::nullopt;
    if (found.at + found.size != frame.size()) return std::nullopt;
    if (found.may_grow && frame.substr(found.at) != first) return std::nullopt;
    if (!keep_ && found.at != message.size()) return std::nullopt;
    const std::string stream = first + frame;
    const testing::DelimiterPlace before = Find(stream);
    if (before.at != 0 || before.size != first.size() || before.may_grow) return std::nullopt;
    return frame;
  }

  [[nodiscard]] std::string DrawMessage(Choices& choices, std::size_t size) const override {
    std::string message = DrawBytes(choices, size);
    if (choices.Chance(0.8)) {
      for (char& letter : message) {
        if (IsOfADelimiter(letter)) letter = '.';
      }
    }
    if (keep_) message += delimiters_[choices.Below(delimiters_.size())];
    return message;
  }

  [[nodiscard]] std::string DrawFrame(Choices& choices, std::size_t size) const override {
    if (choices.Chance(0.9)) size = std::min(size, max_size_);
    std::string frame = DrawMessage(choices, size);
    if (!keep_) frame += delimiters_[choices.Below(delimiters_.size())];
    return frame;
  }

 private:
  [[nodiscard]] testing::DelimiterPlace Find(std::string_view bytes) const {
    return testing::FindDelimiter(bytes, delimiters_, false);
  }
  [[nodiscard]] bool IsOfADelimiter(char letter) const {
    return std::any_of(delimiters_.begin(), delimiters_.end(), [&](const std::string& delimiter) {
      return delimiter.find(letter) != std::string::npos;
    });
  }

  const bool keep_;
  std::vector<std::string> delimiters_;
};

// ---- The others.

class FixedModel final : public FramingModel {
 public:
  explicit FixedModel(Choices& choices)
      : size_(choices.OneOf<std::size_t>({1, 2, 7, 100, 1000, 40'000})) {
    max_size_ = size_;
    framing_ = FixedSize(size_);
  }
  [[nodiscard]] Cut First(std::string_view bytes, bool) const override {
    return testing::FrontOfFixedSize(bytes, size_);
  }
  [[nodiscard]] std::optional<std::string> FrameOf(std::string_view message) const override {
    return message.size() == size_ ? std::optional(std::string(message)) : std::nullopt;
  }
  [[nodiscard]] std::string DrawMessage(Choices& choices, std::size_t size) const override {
    return DrawBytes(choices, choices.Chance(0.9) ? size_ : size);
  }
  [[nodiscard]] std::string DrawFrame(Choices& choices, std::size_t) const override {
    return DrawBytes(choices, size_);
  }

 private:
  const std::size_t size_;
};

class VarintModel final : public FramingModel {
 public:
  explicit VarintModel(Choices& choices) {
    max_size_ = DrawMaxSize(choices);
    framing_ = VarintPrefix(max_size_);
  }
  [[nodiscard]] Cut First(std::string_view bytes, bool) const override {
    return testing::FrontOfVarintPrefix(bytes, max_size_);
  }
  [[nodiscard]] std::optional<std::string> FrameOf(std::string_view message) const override {
    std::string frame;
    std::size_t rest = message.size();
    while (rest >= 128) {
      frame += static_cast<char>(static_cast<unsigned char>(rest % 128 + 128));
      rest /= 128;
    }
    return frame + static_cast<char>(rest) + std::string(message);
  }
};

class NetstringModel final : public FramingModel {
 public:
  explicit NetstringModel(Choices& choices) {
    max_size_ = DrawMaxSize(choices);
    framing_ = Netstring(max_size_);
  }
  [[nodiscard]] Cut First(std::string_view bytes, bool) const override {
    return testing::FrontOfNetstring(bytes, max_size_);
  }
  [[nodiscard]] std::optional<std::string> FrameOf(std::string_view message) const override {
    return std::to_string(message.size()) + ":" + std::string(message) + ",";
  }
};

class CobsModel final : public FramingModel {
 public:
  explicit CobsModel(Choices& choices) {
    max_size_ = DrawMaxSize(choices);
    framing_ = Cobs(max_size_);
  }
  [[nodiscard]] Cut First(std::string_view bytes, bool) const override {
    return testing::FrontOfCobs(bytes, max_size_);
  }
  [[nodiscard]] std::optional<std::string> FrameOf(std::string_view message) const override {
    // As the paper says: a zero is added behind the message, and taken away again.
    std::string frame;
    std::string run;
    for (std::size_t i = 0; i <= message.size(); ++i) {
      const bool ends = i == message.size();
      if (ends || message[i] == '\0') {
        frame += static_cast<char>(static_cast<unsigned char>(run.size() + 1));
        frame += std::exchange(run, "");
      } else if (run += message[i]; run.size() == 254) {
        frame += '\xFF' + std::exchange(run, "");
        if (i + 1 == message.size()) break;
      }
    }
    return frame + '\0';
  }
};

class SlipModel final : public FramingModel {
 public:
  explicit SlipModel(Choices& choices) {
    max_size_ = DrawMaxSize(choices);
    framing_ = Slip(max_size_);
  }
  [[nodiscard]] Cut First(std::string_view bytes, bool) const override {
    return testing::FrontOfSlip(bytes, max_size_);
  }
  [[nodiscard]] std::optional<std::string> FrameOf(std::string_view message) const override {
    if (message.empty()) return std::nullopt;
    std::string frame = "\xC0";
    for (const char byte : message) {
      if (byte == '\xC0') {
        frame += "\xDB\xDC";
      } else if (byte == '\xDB') {
        frame += "\xDB\xDD";
      } else {
        frame += byte;
      }
    }
    return frame + '\xC0';
  }
  // The END in front is optional.
  [[nodiscard]] std::string DrawFrame(Choices& choices, std::size_t size) const override {
    std::string frame = FramingModel::DrawFrame(choices, size);
    if (choices.Chance(0.7)) frame.erase(0, frame.find_first_not_of('\xC0'));
    return frame;
  }
};

}  // namespace

// ---- What they share.

std::unique_ptr<FramingModel> FramingModel::Draw(Choices& choices) {
  switch (choices.Below(8)) {
    case 0:
    case 1:
      return std::make_unique<LengthModel>(choices);
    case 2:
    case 3:
      return std::make_unique<DelimiterModel>(choices);
    case 4:
      return std::make_unique<FixedModel>(choices);
    case 5:
      return std::make_unique<VarintModel>(choices);
    case 6:
      return std::make_unique<NetstringModel>(choices);
    default:
      break;
  }
  if (choices.Chance(0.5)) return std::make_unique<SlipModel>(choices);
  return std::make_unique<CobsModel>(choices);
}

std::string FramingModel::DrawMessage(Choices& choices, std::size_t size) const {
  return DrawBytes(choices, size);
}

std::string FramingModel::DrawFrame(Choices& choices, std::size_t size) const {
  if (choices.Chance(0.9)) size = std::min(size, max_size_);
  // One that nobody sends is a peer's mistake, as any bytes are.
  const std::string message = DrawMessage(choices, size);
  return FrameOf(message).value_or(message);
}

std::string DrawBytes(Choices& choices, std::size_t size) {
  constexpr std::string_view kFrequent("\0\0ab\n\r\xC0\xDB\xDC\xFF", 10);
  const bool plain = choices.Chance(0.7);
  std::string bytes;
  bytes.reserve(size);
  // One choice makes many bytes, as nobody cares which.
  std::uint64_t state = choices.Below(1U << 16U) | 1U;
  while (bytes.size() < size) {
    state = state * 0x9e3779b97f4a7c15U + 0x7f4a7c15U;
    const auto high = static_cast<unsigned char>(state >> 56U);
    bytes += plain || high >= 64 ? static_cast<char>('d' + high % 20)
                                 : kFrequent[high % kFrequent.size()];
  }
  return bytes;
}

// ---- What a client sends.

Script Script::Draw(Choices& choices, const FramingModels& models, const FramingModel* first,
                    std::size_t size) {
  Script script;
  const FramingModel* framing = first;
  do {
    const std::size_t begin = script.bytes.size();
    const std::size_t end = choices.Chance(0.6) ? size : begin + choices.Size(size - begin + 1);
    while (script.bytes.size() < end) {
      const std::size_t more =
          choices.Chance(0.1) ? 0 : choices.Size(choices.Chance(0.05) ? 100'000 : 2000);
      script.bytes += framing != nullptr ? framing->DrawFrame(choices, more)
                                         : DrawBytes(choices, choices.Size(2000));
      if (choices.Chance(0.01)) script.bytes += DrawBytes(choices, choices.Size(300));
    }
    script.parts.push_back({script.bytes.size(), framing});
    framing = choices.Chance(0.2) ? nullptr : models[choices.Below(models.size())].get();
  } while (script.bytes.size() < size);
  // Some end inside a message.
  if (choices.Chance(0.2)) {
    script.bytes.resize(script.bytes.size() -
                        choices.Below(std::min<std::size_t>(script.bytes.size(), 20) + 1));
    for (Part& part : script.parts) part.end = std::min(part.end, script.bytes.size());
  }
  return script;
}

std::size_t Script::PartAt(std::uint64_t place) const {
  std::size_t part = 0;
  while (part + 1 < parts.size() && place >= parts[part].end) ++part;
  return part;
}

}  // namespace iocp::sim
