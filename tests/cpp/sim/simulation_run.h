// A simulated run while it goes: what it has drawn, its workers and its clients.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "app.h"
#include "choices.h"
#include "engine/engine.h"
#include "engine/options.h"
#include "memory.h"
#include "network.h"
#include "run_tls.h"
#include "simulation.h"
#include "stepper.h"
#include "support/scrambler.h"

namespace iocp::sim {

// A client: what it wants, and how far it is.
struct Client {
  std::unique_ptr<Peer> peer;
  LinkPtr link;
  // Its end of TLS, and of the stages above, the lowest first; they belong to `peer`. Null without.
  TlsClient* tls = nullptr;
  std::vector<testing::ScrambledPeer*> stages;
  Account* account;
  std::size_t to_send;  // bytes that it wants to send
  double reads;         // how likely it is to look at what has arrived, when it moves
  double ends;          // to end its stream, once all is sent or not
  double closes;
  double resets;
  double breaks;      // to break the rules of a stage
  bool done = false;  // true exactly when it has closed, or the connection has ended for it
  std::size_t key_updates = 0;
  // Bytes that its ends of the stages have not got out.
  [[nodiscard]] std::size_t Waiting() const {
    std::size_t bytes = tls == nullptr ? 0 : tls->waiting();
    for (const testing::ScrambledPeer* stage : stages) bytes += stage->waiting();
    return bytes;
  }
};

class Simulation final : public FailingMemory::Source {
 public:
  Simulation(Choices& choices, const RunSettings& settings);
  ~Simulation() = default;
  Simulation(const Simulation&) = delete;
  Simulation& operator=(const Simulation&) = delete;

  RunResult Run();

 private:
  // simulation.cpp
  static Network::Settings DrawNetwork(Choices& choices, const RunSettings& run);
  void DrawOptions();
  void DrawFramings(Choices late);
  bool Start();
  void Chaos();
  void End();
  bool Fails(bool can_throw) override;

  void Move();
  bool TurnOfOne();
  void Turn(std::size_t index);
  void Yield();
  void LetTimePass();
  void Advance(TimePoint time);
  TimePoint NextMoment();

  // simulation_clients.cpp
  void Dial();
  void MoveClient(Client& client);
  void Read(Client& client, std::size_t most);
  void EndStream(Client& client);
  bool Finish(Client& client);
  void Break(Client& client);
  void BreakTls(Client& client);
  [[nodiscard]] TlsHabits DrawTlsHabits();
  void CheckTls(Client& client);

  // simulation.cpp
  void CheckCounters(bool at_the_end);
  void CheckTlsCounters(const Stats& stats, bool at_the_end);
  [[nodiscard]] bool failed() const { return !network_.failure().empty(); }

  Choices& choices_;
  const RunSettings settings_;
  Network network_;
  std::map<std::uint16_t, Account> accounts_;
  App app_;
  Options options_;
  std::size_t listeners_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Stepper> workers_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::size_t most_clients_;
  std::size_t stages_ = 0;  // of each connection, beside TLS
  std::unique_ptr<RunTls> tls_;
  std::size_t depth_ = 0;       // turns inside turns
  double interleaving_;         // how likely another worker moves inside a hook
  bool lacked_memory_ = false;  // true exactly when an allocation has failed
  RunResult result_;
};

}  // namespace iocp::sim
