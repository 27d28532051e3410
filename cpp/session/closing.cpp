#include "session/closing.h"

#include <cassert>

namespace iocp {
namespace {

[[maybe_unused]] bool Leads(Phase from, Phase to) {
  switch (from) {
    case Phase::kOpen:
      return to == Phase::kFailing || to == Phase::kFlushing || to == Phase::kCancelling;
    case Phase::kFailing:
    case Phase::kLingering:
      return to == Phase::kCancelling;
    case Phase::kFlushing:
      return to == Phase::kLingering || to == Phase::kCancelling;
    case Phase::kCancelling:
      return to == Phase::kClosed;
    case Phase::kClosed:
      return to == Phase::kFinished;
    case Phase::kFinished:
      return false;
  }
  return false;
}

}  // namespace

void Closing::Enter(Phase next) {
  assert(Leads(phase_, next) && "this phase does not follow that one");
  phase_ = next;
}

}  // namespace iocp
