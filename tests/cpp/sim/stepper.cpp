#include "stepper.h"

#include <algorithm>

#include "sim_port.h"

namespace iocp::sim {

Stepper::Stepper(Engine& engine, Network& network)
    : engine_(engine), network_(network), seats_(engine.worker_count()) {}

bool Stepper::all_left() const {
  return std::all_of(seats_.begin(), seats_.end(), [](const Seat& seat) { return seat.left; });
}

std::size_t Stepper::InTurn() const {
  const auto seat =
      std::find_if(seats_.begin(), seats_.end(), [](const Seat& s) { return s.in_turn; });
  return static_cast<std::size_t>(seat - seats_.begin());
}

bool Stepper::Runnable(std::size_t worker) const {
  if (left(worker) || in_turn(worker)) return false;
  Worker& candidate = engine_.worker(worker);
  return candidate.Deadline() <= network_.now() ||
         static_cast<SimPort&>(candidate.shard().port()).Ready();
}

bool Stepper::AnyRunnable() const {
  for (std::size_t i = 0; i < count(); ++i) {
    if (Runnable(i)) return true;
  }
  return false;
}

TimePoint Stepper::NextDeadline() const {
  TimePoint next = TimePoint::max();
  for (std::size_t i = 0; i < count(); ++i) {
    if (!left(i) && !in_turn(i)) next = std::min(next, engine_.worker(i).Deadline());
  }
  return next;
}

void Stepper::Turn(std::size_t worker) {
  seats_[worker].in_turn = true;
  seats_[worker].left = !engine_.worker(worker).Turn();
  seats_[worker].in_turn = false;
}

}  // namespace iocp::sim
