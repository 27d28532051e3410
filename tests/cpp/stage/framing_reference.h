// What each framing makes of a whole stream, written once more: plainly, over the whole of it, with
// no thought of speed or of parts.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "iocp/framing.h"

namespace iocp::testing {

struct Reference {
  std::vector<std::string> messages;
  FrameFault fault;  // that the stream ends with
};

Reference CutLengthPrefix(std::string_view stream, const LengthPrefixOptions& options);
Reference CutDelimiter(std::string_view stream, const std::vector<std::string>& delimiters,
                       bool keep, std::size_t max_size);
Reference CutFixedSize(std::string_view stream, std::size_t size);
Reference CutVarintPrefix(std::string_view stream, std::size_t max_size);
Reference CutNetstring(std::string_view stream, std::size_t max_size);
Reference CutCobs(std::string_view stream, std::size_t max_size);
Reference CutSlip(std::string_view stream, std::size_t max_size);

}  // namespace iocp::testing
