#include "framing_reference.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace iocp::testing {
namespace {

using Wide = __int128;  // nothing overflows

constexpr Wide kMost = std::numeric_limits<std::uint64_t>::max();

unsigned ByteAt(std::string_view bytes, std::size_t at) {
  return static_cast<unsigned char>(bytes[at]);
}

}  // namespace

std::size_t StripOf(const LengthPrefixOptions& options) {
  return options.strip.value_or(options.offset == 0 ? static_cast<std::size_t>(options.size) : 0);
}

FrontCut FrontOfLengthPrefix(std::string_view bytes, const LengthPrefixOptions& options) {
  const auto size = static_cast<std::size_t>(options.size);
  const std::size_t header = options.offset + size;
  const std::size_t strip = StripOf(options);
  if (bytes.size() < header) return {};
  std::string field(bytes.substr(options.offset, size));
  if (options.little_endian) std::reverse(field.begin(), field.end());
  Wide length = 0;
  for (std::size_t i = 0; i < size; ++i) length = length * 256 + ByteAt(field, i);
  // Greater ones than 64 bits can say are all the same.
  length = std::min(length + options.adjust, kMost);
  const Wide frame = length + static_cast<Wide>(header);
  const Wide message = frame - static_cast<Wide>(strip);
  if (length < 0 || message < 0) return FrontCut::Malformed();
  if (message > static_cast<Wide>(options.max_size)) {
    const auto announced = static_cast<std::uint64_t>(std::min(message, kMost));
    return FrontCut::TooLong(options.max_size, announced);
  }
  // Where nothing is left of the frame but what is stripped, that has to come all the same.
  const auto used = static_cast<std::size_t>(frame);
  if (bytes.size() < used) return {};
  return FrontCut::Message(used, bytes.substr(strip, used - strip));
}

DelimiterPlace FindDelimiter(std::string_view bytes, const std::vector<std::string>& delimiters,
                             bool last) {
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    const std::string_view rest = bytes.substr(at);
    DelimiterPlace place{at};
    std::size_t possible = 0;
    for (const std::string& delimiter : delimiters) {
      if (rest.starts_with(delimiter)) place.size = std::max(place.size, delimiter.size());
      if (std::string_view(delimiter).starts_with(rest)) {
        possible = std::max(possible, delimiter.size());
      }
    }
    place.may_grow = possible > place.size;
    if (place.size != 0 || (place.may_grow && !last)) return place;
  }
  return {bytes.size()};
}

FrontCut FrontOfDelimiter(std::string_view bytes, const std::vector<std::string>& delimiters,
                          bool keep, std::size_t max_size, bool last) {
  const DelimiterPlace place = FindDelimiter(bytes, delimiters, last);
  if (place.at > max_size) return FrontCut::TooLong(max_size);
  if (place.size == 0 || (place.may_grow && !last)) return {};
  const std::size_t used = place.at + place.size;
  return FrontCut::Message(used, bytes.substr(0, keep ? used : place.at));
}

FrontCut FrontOfFixedSize(std::string_view bytes, std::size_t size) {
  if (bytes.size() < size) return {};
  return FrontCut::Message(size, bytes.substr(0, size));
}

FrontCut FrontOfVarintPrefix(std::string_view bytes, std::size_t max_size) {
  Wide length = 0;
  for (std::size_t i = 0; i < std::min<std::size_t>(bytes.size(), 10); ++i) {
    const unsigned byte = ByteAt(bytes, i);
    length += static_cast<Wide>(byte % 128) << (7 * i);
    if (byte >= 128 && i < 9) continue;
    if (byte >= 128 || length > kMost) return FrontCut::Malformed();
    const auto size = static_cast<std::uint64_t>(length);
    if (size > max_size) return FrontCut::TooLong(max_size, size);
    const std::size_t used = i + 1 + size;
    if (bytes.size() < used) return {};
    return FrontCut::Message(used, bytes.substr(i + 1, size));
  }
  return {};
}

FrontCut FrontOfNetstring(std::string_view bytes, std::size_t max_size) {
  std::size_t length = 0;
  std::size_t at = 0;
  for (; at < bytes.size() && bytes[at] >= '0' && bytes[at] <= '9'; ++at) {
    if (at == 1 && bytes[0] == '0') return FrontCut::Malformed();
    length = length * 10 + static_cast<std::size_t>(bytes[at] - '0');
    if (length > max_size) return FrontCut::TooLong(max_size);
  }
  if (at == bytes.size()) return {};
  if (bytes[at] != ':' || at == 0) return FrontCut::Malformed();
  const std::size_t used = at + 1 + length + 1;
  if (bytes.size() < used) return {};
  if (bytes[used - 1] != ',') return FrontCut::Malformed();
  return FrontCut::Message(used, bytes.substr(at + 1, length));
}

FrontCut FrontOfCobs(std::string_view bytes, std::size_t max_size) {
  if (bytes.starts_with('\0')) return FrontCut::Skip(1);
  std::string message;
  bool zero = false;
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t code = ByteAt(bytes, at);
    if (code == 0) return FrontCut::Message(at + 1, message);
    const std::string_view run = bytes.substr(at + 1, code - 1);
    const std::string_view good = run.substr(0, run.find('\0'));
    if (zero) message += '\0';
    message += good;
    if (message.size() > max_size) return FrontCut::TooLong(max_size);
    if (good.size() < run.size()) return FrontCut::Malformed();
    if (run.size() < code - 1) return {};
    zero = code != 255;
    at += code;
  }
  return {};
}

FrontCut FrontOfSlip(std::string_view bytes, std::size_t max_size) {
  if (bytes.starts_with('\xC0')) return FrontCut::Skip(1);
  std::string message;
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    if (bytes[at] == '\xC0') return FrontCut::Message(at + 1, message);
    if (bytes[at] != '\xDB') {
      message += bytes[at];
    } else if (++at == bytes.size()) {
      return {};
    } else if (bytes[at] == '\xDC' || bytes[at] == '\xDD') {
      message += bytes[at] == '\xDC' ? '\xC0' : '\xDB';
    } else {
      return FrontCut::Malformed();
    }
    if (message.size() > max_size) return FrontCut::TooLong(max_size);
  }
  return {};
}

Reference CutAll(std::string_view stream, const std::function<FrontCut(std::string_view)>& rule) {
  Reference result;
  while (!stream.empty()) {
    FrontCut cut = rule(stream);
    switch (cut.kind) {
      case FrontCut::Kind::kMore:
        result.fault = {FrameFault::Kind::kTruncated, {}, 0};
        return result;
      case FrontCut::Kind::kFault:
        result.fault = cut.fault;
        return result;
      case FrontCut::Kind::kMessage:
        result.messages.push_back(std::move(cut.message));
        break;
      case FrontCut::Kind::kSkip:
        break;
    }
    stream.remove_prefix(cut.used);
  }
  return result;
}

}  // namespace iocp::testing
