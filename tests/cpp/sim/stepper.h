// The workers of an engine without threads: each takes a turn when the test says so, also inside
// another one's hook.
#pragma once

#include <cstddef>
#include <vector>

#include "engine/engine.h"
#include "network.h"

namespace iocp::sim {

class Stepper {
 public:
  Stepper(Engine& engine, Network& network);

  [[nodiscard]] std::size_t count() const { return seats_.size(); }
  [[nodiscard]] bool in_turn(std::size_t worker) const { return seats_[worker].in_turn; }
  [[nodiscard]] bool left(std::size_t worker) const { return seats_[worker].left; }
  [[nodiscard]] bool all_left() const;
  // The first worker that is in a turn; count() when none is.
  [[nodiscard]] std::size_t InTurn() const;
  // True exactly when the worker is in no turn, and has something to do at this moment.
  [[nodiscard]] bool Runnable(std::size_t worker) const;
  [[nodiscard]] bool AnyRunnable() const;
  // When a worker that is in no turn next has a deadline.
  [[nodiscard]] TimePoint NextDeadline() const;

  // One turn of a worker that is in none.
  void Turn(std::size_t worker);

 private:
  struct Seat {
    bool in_turn = false;  // true exactly while the worker is in a turn
    bool left = false;     // true exactly when it has nothing more to do in this run
  };

  Engine& engine_;
  Network& network_;
  std::vector<Seat> seats_;
};

}  // namespace iocp::sim
