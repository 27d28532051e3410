#include "session/inbound.h"

namespace iocp {

void Inbound::Count(std::uint64_t came, std::uint64_t expected) {
  came_ += came;
  if (expected != 0) expected_ = expected;
  // All have been applied, so none that another worker still has is of this session.
  if (came_ == expected_) in_flight_ = false;
}

}  // namespace iocp
