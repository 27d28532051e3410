#include "session/inbound.h"

namespace iocp {

void Inbound::Count(std::uint64_t came, std::uint64_t expected) {
  came_ += came;
  if (expected != 0) expected_ = expected;
  // All have been applied, so none that another worker still has is of this session.
  if (came_ == expected_) in_flight_ = false;
}

bool Inbound::Congested(std::size_t charge, const Options& options) const {
  if (!options.flow_control) return false;
  return charge > (over_high_water_ ? options.write_low_water : options.write_high_water);
}

}  // namespace iocp
