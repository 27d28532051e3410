// A framing with any options, a stream of any bytes that is received in any parts, and whether the
// cutter makes of it what the reference does.
#pragma once

#include <cstddef>
#include <string>

#include "sim/choices.h"

namespace iocp::testing {

struct Differential {
  std::string failure;       // empty: none
  std::size_t messages = 0;  // that were cut
};

Differential CompareFramings(sim::Choices& choices);

}  // namespace iocp::testing
