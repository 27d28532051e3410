// The means to force one order of events: the engine on simulated ports, a handler whose
// hooks the test writes, clients, and workers that take a turn when the test says so, also inside
// another worker's hook. Nothing happens by chance, and no fault but those that the test asks for.
#pragma once

#include <gtest/gtest.h>
#include <iocp/iocp.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "network.h"
#include "stepper.h"
#include "support/handlers.h"

namespace iocp::sim {

using testing::RecordingHandler;

class Scenario {
 public:
  struct Setup {
    int workers = 1;
    int listeners = 1;
    bool shared = false;    // the workers wait on one port; else each on its own
    bool sends_now = true;  // ports have SendNow
    int reads = 1;          // outstanding for each connection
    std::size_t window = std::size_t{64} * 1024;  // bytes on their way in each direction
    unsigned hooks = kHookAll;                    // those that the server has
    Faults faults;                                // from the beginning on
    Options options;
    StageFactory stages = nullptr;  // of each connection
  };
  // One worker on a port of its own; two that share one; reads posted ahead and none. The receive
  // buffers are small.
  static std::vector<Setup> Setups();
  using Client = std::unique_ptr<SimPeer>;

  explicit Scenario(const Setup& setup);
  Scenario(const Scenario&) = delete;
  Scenario& operator=(const Scenario&) = delete;
  // Stops the server, with no fault and no hook of the test any more; nothing may be left.
  ~Scenario();

  Network& network() { return network_; }
  RecordingHandler& handler() { return handler_; }
  Engine& engine() { return *engine_; }
  [[nodiscard]] Stats stats() const { return engine_->stats(); }

  // A client in a listener's backlog.
  Client Dial(std::size_t listener = 0);
  // A client whose connection is established, with everything done that there was to do.
  Client Connect();
  // All that a client receives while it waits for the end of the stream, for a second at most.
  std::string ReceiveAll(const Client& client);
  // True exactly when the client's connection was established, be it closed by now.
  bool Knows(const Client& client) { return Find(client) != nullptr; }
  RecordingHandler::Record& Of(const Client& client);
  // Only of one that has not ended.
  Connection& ConnectionOf(const Client& client) { return *Of(client).connection; }

  // One turn of a worker that is in none. A worker leaves only when the server stops: anything else
  // fails the test.
  void Step(std::size_t worker);
  // The worker that is in a turn: in a hook, the one that calls it.
  [[nodiscard]] std::size_t InTurn() const { return workers_->InTurn(); }
  [[nodiscard]] bool in_turn(std::size_t worker) const { return workers_->in_turn(worker); }
  // Turns until nobody has anything to do at this moment.
  void StepAll();
  // The same, while the time passes.
  void PassTime(Duration duration);
  // Lets the system complete nothing but these for now.
  void LetCome(std::function<bool(const Completion&)> which);
  void LetAllCome() { network_.held_back = nullptr; }

  void RequestStop(Duration timeout) { engine_->RequestStop(network_.now() + timeout); }
  [[nodiscard]] bool all_left() const { return workers_->all_left(); }
  // Connections whose closing hook has begun.
  [[nodiscard]] std::size_t closed() const;

 private:
  RecordingHandler::Record* Find(const Client& client);

  Choices choices_{1};
  Network network_;
  RecordingHandler handler_;
  const Options options_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Stepper> workers_;
};

// Each test leaves the heap as it found it.
class ScenarioTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

 private:
  std::size_t live_before_ = 0;
};

// For LetCome.
inline bool IsRead(const Completion& completion, std::uint64_t sequence) {
  return completion.operation == Operation::kReceive && completion.sequence == sequence;
}

}  // namespace iocp::sim
