#include "iocp/framing.h"

#include <stdexcept>

namespace iocp {

std::string FrameFault::Describe() const {
  switch (kind) {
    case Kind::kNone:
      return "no fault";
    case Kind::kTooLong:
      if (!announced) {
        return "a message is longer than the " + std::to_string(limit) +
               " bytes that the framing allows (max_size)";
      }
      return "a message of " + std::to_string(*announced) + " bytes was announced; the framing " +
             "allows " + std::to_string(limit) + " (max_size)";
    case Kind::kMalformed:
      return std::string("the bytes received are no message of this framing: ") + detail;
    case Kind::kTruncated:
      return "the peer ended its stream inside a message";
  }
  return "";
}

FrameFault FrameCut::fault() const {
  if (begin == 0) return {FrameFault::Kind::kMalformed, std::nullopt, 0};
  const auto announced = size == 0 ? std::nullopt : std::optional<std::uint64_t>(size);
  return {FrameFault::Kind::kTooLong, announced, begin};
}

void Frame::RefuseHead(std::size_t size) {
  throw std::invalid_argument("the head of a frame has at most " + std::to_string(kMostHead) +
                              " bytes, not " + std::to_string(size));
}

}  // namespace iocp
