#include "framing_reference.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>

namespace iocp::testing {
namespace {

using Kind = FrameFault::Kind;
using Wide = __int128;

FrameFault TooLong(std::size_t limit, std::optional<std::uint64_t> announced = {}) {
  return {Kind::kTooLong, announced, limit};
}
FrameFault Malformed() { return {Kind::kMalformed, {}, 0}; }
FrameFault Truncated() { return {Kind::kTruncated, {}, 0}; }

unsigned ByteAt(std::string_view bytes, std::size_t at) {
  return static_cast<unsigned char>(bytes[at]);
}

// Calls `one` with what is left until it is nothing, or until there is a fault.
template <typename One>
Reference CutAll(std::string_view stream, One one) {
  Reference result;
  while (!stream.empty() && result.fault.kind == Kind::kNone) {
    stream.remove_prefix(one(stream, result));
  }
  return result;
}

}  // namespace

Reference CutLengthPrefix(std::string_view stream, const LengthPrefixOptions& options) {
  const auto size = static_cast<std::size_t>(options.size);
  const std::size_t header = options.offset + size;
  const std::size_t strip = options.strip.value_or(options.offset == 0 ? size : 0);
  return CutAll(stream, [&](std::string_view rest, Reference& result) -> std::size_t {
    if (rest.size() < header) return result.fault = Truncated(), 0;
    std::string field(rest.substr(options.offset, size));
    if (options.little_endian) std::reverse(field.begin(), field.end());
    Wide length = 0;
    for (std::size_t i = 0; i < size; ++i) length = length * 256 + ByteAt(field, i);
    length += options.adjust;
    // Greater ones than 64 bits can say are all the same.
    constexpr Wide kMost = std::numeric_limits<std::uint64_t>::max();
    length = std::min(length, kMost);
    const Wide frame = length + static_cast<Wide>(header);
    const Wide message = frame - static_cast<Wide>(strip);
    if (length < 0 || message < 0) return result.fault = Malformed(), 0;
    if (message > static_cast<Wide>(options.max_size)) {
      const auto announced = static_cast<std::uint64_t>(std::min(message, kMost));
      return result.fault = TooLong(options.max_size, announced), 0;
    }
    if (frame > static_cast<Wide>(rest.size())) return result.fault = Truncated(), 0;
    const auto used = static_cast<std::size_t>(frame);
    result.messages.emplace_back(rest.substr(strip, used - strip));
    return used;
  });
}

Reference CutDelimiter(std::string_view stream, const std::vector<std::string>& delimiters,
                       bool keep, std::size_t max_size) {
  return CutAll(stream, [&](std::string_view rest, Reference& result) -> std::size_t {
    for (std::size_t at = 0; at < rest.size(); ++at) {
      std::size_t longest = 0;
      for (const std::string& delimiter : delimiters) {
        if (rest.substr(at, delimiter.size()) == delimiter) {
          longest = std::max(longest, delimiter.size());
        }
      }
      if (longest == 0) continue;
      if (at > max_size) return result.fault = TooLong(max_size), 0;
      result.messages.emplace_back(rest.substr(0, keep ? at + longest : at));
      return at + longest;
    }
    result.fault = rest.size() > max_size ? TooLong(max_size) : Truncated();
    return 0;
  });
}

Reference CutFixedSize(std::string_view stream, std::size_t size) {
  return CutAll(stream, [&](std::string_view rest, Reference& result) -> std::size_t {
    if (rest.size() < size) return result.fault = Truncated(), 0;
    result.messages.emplace_back(rest.substr(0, size));
    return size;
  });
}

Reference CutVarintPrefix(std::string_view stream, std::size_t max_size) {
  return CutAll(stream, [&](std::string_view rest, Reference& result) -> std::size_t {
    Wide length = 0;
    for (std::size_t i = 0;; ++i) {
      if (i == 10) return result.fault = Malformed(), 0;
      if (i == rest.size()) return result.fault = Truncated(), 0;
      length += static_cast<Wide>(ByteAt(rest, i) % 128) << (7 * i);
      if (length > static_cast<Wide>(std::numeric_limits<std::uint64_t>::max())) {
        return result.fault = Malformed(), 0;
      }
      if (ByteAt(rest, i) >= 128) continue;
      const auto size = static_cast<std::uint64_t>(length);
      if (size > max_size) return result.fault = TooLong(max_size, size), 0;
      if (rest.size() - (i + 1) < size) return result.fault = Truncated(), 0;
      result.messages.emplace_back(rest.substr(i + 1, size));
      return i + 1 + size;
    }
  });
}

Reference CutNetstring(std::string_view stream, std::size_t max_size) {
  return CutAll(stream, [&](std::string_view rest, Reference& result) -> std::size_t {
    std::string digits;
    for (const char c : rest) {
      if (c == ':') break;
      if (c < '0' || c > '9' || digits == "0") return result.fault = Malformed(), 0;
      digits += c;
      if (std::stoull(digits) > max_size) return result.fault = TooLong(max_size), 0;
    }
    if (digits.size() == rest.size()) return result.fault = Truncated(), 0;
    if (digits.empty()) return result.fault = Malformed(), 0;
    const std::size_t size = std::stoull(digits);
    const std::size_t used = digits.size() + 1 + size + 1;
    if (rest.size() < used) return result.fault = Truncated(), 0;
    if (rest[used - 1] != ',') return result.fault = Malformed(), 0;
    result.messages.emplace_back(rest.substr(digits.size() + 1, size));
    return used;
  });
}

Reference CutCobs(std::string_view stream, std::size_t max_size) {
  return CutAll(stream, [&](std::string_view rest, Reference& result) -> std::size_t {
    if (rest[0] == '\0') return 1;
    const std::size_t end = rest.find('\0');
    const std::string_view encoded = rest.substr(0, end);
    std::string message;
    unsigned before = 255;
    for (std::size_t i = 0; i < encoded.size();) {
      if (before != 255) message += '\0';
      before = ByteAt(encoded, i++);
      const std::string_view run = encoded.substr(i, before - 1);
      message += run;
      i += run.size();
      if (message.size() > max_size) return result.fault = TooLong(max_size), 0;
      if (run.size() < before - 1 && end != std::string_view::npos) {
        return result.fault = Malformed(), 0;
      }
    }
    if (end == std::string_view::npos) return result.fault = Truncated(), 0;
    result.messages.push_back(message);
    return end + 1;
  });
}

Reference CutSlip(std::string_view stream, std::size_t max_size) {
  return CutAll(stream, [&](std::string_view rest, Reference& result) -> std::size_t {
    if (rest[0] == '\xC0') return 1;
    std::string message;
    for (std::size_t i = 0; i < rest.size(); ++i) {
      if (rest[i] == '\xC0') {
        result.messages.push_back(message);
        return i + 1;
      }
      if (rest[i] == '\xDB') {
        if (++i == rest.size()) break;
        if (rest[i] != '\xDC' && rest[i] != '\xDD') return result.fault = Malformed(), 0;
        message += rest[i] == '\xDC' ? '\xC0' : '\xDB';
      } else {
        message += rest[i];
      }
      if (message.size() > max_size) return result.fault = TooLong(max_size), 0;
    }
    result.fault = Truncated();
    return 0;
  });
}

}  // namespace iocp::testing
