// The rule of each framing, written once more: plainly, as the documentation says, with no thought
// of speed and without any of the engine's code.
#pragma once

#include <iocp/framing.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace iocp::testing {

// The answer of a rule about the front of a stream.
struct FrontCut {
  enum class Kind : std::uint8_t { kMore, kMessage, kSkip, kFault };
  Kind kind = Kind::kMore;
  std::size_t used = 0;  // kMessage, kSkip
  std::string message;   // kMessage: as the hook gets it
  FrameFault fault;      // kFault

  static FrontCut Message(std::size_t used, std::string_view message) {
    return {Kind::kMessage, used, std::string(message), {}};
  }
  static FrontCut Skip(std::size_t used) { return {Kind::kSkip, used, {}, {}}; }
  static FrontCut TooLong(std::uint64_t limit, std::optional<std::uint64_t> announced = {}) {
    return {Kind::kFault, 0, {}, {FrameFault::Kind::kTooLong, announced, limit}};
  }
  static FrontCut Malformed() {
    return {Kind::kFault, 0, {}, {FrameFault::Kind::kMalformed, {}, 0}};
  }
};

// The rules. `bytes` begin where a message does.
FrontCut FrontOfLengthPrefix(std::string_view bytes, const LengthPrefixOptions& options);
// `last`: no more will follow.
FrontCut FrontOfDelimiter(std::string_view bytes, const std::vector<std::string>& delimiters,
                          bool keep, std::size_t max_size, bool last);
FrontCut FrontOfFixedSize(std::string_view bytes, std::size_t size);
FrontCut FrontOfVarintPrefix(std::string_view bytes, std::size_t max_size);
FrontCut FrontOfNetstring(std::string_view bytes, std::size_t max_size);
FrontCut FrontOfCobs(std::string_view bytes, std::size_t max_size);
FrontCut FrontOfSlip(std::string_view bytes, std::size_t max_size);

// The bytes that are removed from the front of a frame.
std::size_t StripOf(const LengthPrefixOptions& options);

// The place where the first delimiter begins, or could begin.
struct DelimiterPlace {
  std::size_t at;
  std::size_t size = 0;   // of the delimiter; 0: it is not complete
  bool may_grow = false;  // into a longer one, or into one at all
};
DelimiterPlace FindDelimiter(std::string_view bytes, const std::vector<std::string>& delimiters,
                             bool last);

// A whole stream.
struct Reference {
  std::vector<std::string> messages;
  FrameFault fault;  // that the stream ends with
};
// Cuts all of it by a rule, which is told that no more bytes follow.
Reference CutAll(std::string_view stream, const std::function<FrontCut(std::string_view)>& rule);

}  // namespace iocp::testing
