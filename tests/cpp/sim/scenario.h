// What a test needs to force one order of events: the engine on simulated ports, a handler whose
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

namespace iocp::sim {

// Checks the grammar of hooks while it records: a violation is a failure of the test.
class ScriptedHandler : public Handler {
 public:
  struct Record {
    Connection* connection = nullptr;  // no reference: good until its closing hook has run
    std::string received;
    std::vector<std::size_t> written;
    Error error;
    std::optional<CloseReason> closed;  // why, once the closing hook has begun
    bool in_hook = false;               // true exactly while a hook of it runs
  };

  // Called in the hooks, after they were recorded.
  std::function<void(Connection&)> on_established;
  std::function<void(Connection&, Buffer&)> on_read;
  std::function<void(Connection&)> on_closing;

  // By the client's port.
  std::map<std::uint16_t, Record> records;
  std::vector<std::string> warnings;
  unsigned hooks = kHookAll;  // those that it has

  [[nodiscard]] std::size_t closed() const;

  void OnConnectionEstablished(Connection& connection) override;
  void OnReadCompleted(Connection& connection, Buffer& buffer) override;
  void OnWriteCompleted(Connection& connection, std::size_t size) override;
  void OnConnectionError(Connection& connection, Error error) override;
  void OnConnectionClosing(Connection& connection, CloseReason reason) override;
  void OnWarning(const std::string& message) override { warnings.push_back(message); }
  [[nodiscard]] unsigned WantedHooks() const override { return hooks; }

 private:
  class HookScope;
};

class Scenario {
 public:
  struct Setup {
    int workers = 1;
    bool shared = false;  // the workers wait on one port; else each on its own
    int reads = 1;        // outstanding for each connection
    std::size_t window = std::size_t{64} * 1024;  // bytes on their way in each direction
    unsigned hooks = kHookAll;                    // those that the server has
    Options options;
    StageFactory stages = nullptr;  // of each connection
  };
  using Client = std::unique_ptr<SimPeer>;

  explicit Scenario(const Setup& setup);
  Scenario(const Scenario&) = delete;
  Scenario& operator=(const Scenario&) = delete;
  // Stops the server, with no fault and no hook of the test any more; nothing may be left.
  ~Scenario();

  Network& network() { return network_; }
  ScriptedHandler& handler() { return handler_; }
  Engine& engine() { return *engine_; }
  [[nodiscard]] Stats stats() const { return engine_->stats(); }

  // A client in the listener's backlog.
  Client Dial();
  // A client whose connection is established, with everything done that there was to do.
  Client Connect();
  // All that a client receives while it waits for the end of the stream, for a second at most.
  std::string ReceiveAll(const Client& client);
  ScriptedHandler::Record& Of(const Client& client) { return handler_.records.at(client->port()); }
  // Only of one that has not ended.
  Connection& ConnectionOf(const Client& client) { return *Of(client).connection; }

  // One turn of a worker that is in none. A worker leaves only when the server stops: anything else
  // fails the test.
  void Step(std::size_t worker);
  // The worker that is in a turn: in a hook, the one that calls it.
  [[nodiscard]] std::size_t InTurn() const;
  // Turns until nobody has anything to do at this moment.
  void StepAll();
  // The same, while the time passes.
  void PassTime(Duration duration);
  // Lets the system complete nothing but these for now.
  void LetCome(std::function<bool(const Completion&)> which);
  void LetAllCome() { network_.held_back = nullptr; }

  void RequestStop(Duration timeout) { engine_->RequestStop(network_.now() + timeout); }
  [[nodiscard]] bool all_left() const;

 private:
  struct Seat {  // a worker's
    bool in_turn = false;
    bool left = false;
  };
  bool Runnable(std::size_t worker);

  Choices choices_{1};
  Network network_;
  ScriptedHandler handler_;
  const Options options_;
  Address bound_;
  std::unique_ptr<Engine> engine_;
  std::vector<Seat> seats_;
};

// Each test leaves the heap as it found it.
class DefectsTest : public ::testing::Test {
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
