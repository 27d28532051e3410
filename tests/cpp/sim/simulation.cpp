#include "simulation.h"

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "app.h"
#include "engine/engine.h"
#include "engine/options.h"
#include "memory.h"
#include "sim_port.h"
#include "stepper.h"
#include "support/scrambler.h"

namespace iocp::sim {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// More than any run needs that goes on; fewer than would be a nuisance.
constexpr std::uint64_t kMostTurns = 200'000;
constexpr std::chrono::minutes kLongest{30};

// A client: what it wants, and how far it is.
struct Client {
  std::unique_ptr<Peer> peer;
  // Its ends of the stages, the one next to the wire first; they belong to `peer`.
  std::vector<testing::ScrambledPeer*> stages;
  Account* account;
  std::size_t to_send;  // bytes that it wants to send
  double reads;         // how likely it is to look at what has arrived, when it moves
  double ends;          // to end its stream, once all is sent or not
  double closes;
  double resets;
  double breaks;      // to break the rules of a stage
  bool done = false;  // true exactly when it has closed, or the connection has ended for it
  // Bytes that its ends of the stages have not got out.
  [[nodiscard]] std::size_t Waiting() const {
    std::size_t bytes = 0;
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

  void Dial();
  void MoveClient(Client& client);
  void Read(Client& client, std::size_t most);
  bool Finish(Client& client);
  void Break(Client& client);

  void CheckCounters(bool at_the_end);
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
  std::size_t stages_ = 0;  // of each connection
  std::size_t depth_ = 0;   // turns inside turns
  double interleaving_;     // how likely another worker moves inside a hook
  RunResult result_;
};

Network::Settings Simulation::DrawNetwork(Choices& choices, const RunSettings& run) {
  Network::Settings settings;
  settings.window = choices.OneOf<std::size_t>({256, 4096, 65'536, 262'144});
  settings.reads = choices.OneOf({0, 1, 2, 4, 16});
  settings.shared = choices.Chance(0.5);
  settings.sends_now = !settings.shared;  // as on the systems that there are
  settings.wait_passes_time = false;
  settings.bug = run.bug;
  settings.log = run.log;
  return settings;
}

Simulation::Simulation(Choices& choices, const RunSettings& settings)
    : choices_(choices),
      settings_(settings),
      network_(choices, DrawNetwork(choices, settings)),
      app_(network_, accounts_),
      listeners_(choices.Between(1, 2)),
      most_clients_(choices.Between(1, 12)),
      interleaving_(choices.OneOf({0.0, 0.05, 0.3})) {
  DrawOptions();
  app_.yield = network_.yield = [this] { Yield(); };
}

void Simulation::DrawOptions() {
  const auto sometimes = [&](Duration duration) {
    return choices_.Chance(0.3) ? std::optional<Duration>(duration) : std::nullopt;
  };
  options_.port = 0;
  options_.workers = static_cast<int>(choices_.Between(1, 4));
  options_.max_connections = choices_.OneOf({1, 2, 5, 100});
  options_.at_capacity = choices_.OneOf({AtCapacity::kRefuse, AtCapacity::kWait});
  options_.max_accepts = choices_.OneOf({10, 100});
  options_.buffer_size = choices_.OneOf<std::size_t>({512, 4096, 65'536});
  options_.max_free_buffers = choices_.OneOf({0, 2, 200});
  options_.max_free_contexts = choices_.OneOf({0, 1, 100});
  options_.send_backlog_limit = choices_.OneOf<std::size_t>({1, 1000, 1'048'576});
  if (choices_.Chance(0.3)) options_.max_pending_sends = choices_.OneOf({1, 4});
  options_.flow_control = choices_.Chance(0.7);
  if (choices_.Chance(0.5)) {
    options_.write_high_water = choices_.OneOf<std::size_t>({0, 100, 5000});
    options_.write_low_water = options_.write_high_water / 2;
  }
  options_.established_on = choices_.OneOf({EstablishedOn::kConnect, EstablishedOn::kFirstData});
  options_.first_data_timeout = sometimes(milliseconds(choices_.Size(20'000)));
  options_.idle_timeout = sometimes(milliseconds(choices_.Size(20'000)));
  options_.write_timeout = sometimes(milliseconds(choices_.Size(20'000)));
  options_.close_timeout = milliseconds(choices_.OneOf({0, 20, 5000}));
  Choices late = choices_.SplitOff(8);
  if (late.Chance(0.3)) options_.receive_timeout = milliseconds(late.Size(20'000));
  stages_ = choices_.OneOf<std::size_t>({0, 0, 0, 1, 2});
  app_.staged = stages_ != 0;
  app_.liveliness = choices_.OneOf({0.05, 0.3, 0.6});
  app_.wants_writes = choices_.Chance(0.7);
  app_.wants_writable = choices_.Chance(0.7);
  network_.send_error = choices_.OneOf({ErrorKind::kOther, ErrorKind::kOutOfResources});
  DrawFramings(choices_.SplitOff(32));
}

// A run without framings makes no choice because of those that others have.
void Simulation::DrawFramings(Choices late) {
  if (!late.Chance(0.5)) return;
  for (std::size_t count = late.Between(1, 4); count > 0; --count) {
    app_.framings.push_back(FramingModel::Draw(late));
  }
  app_.lists = late.Chance(0.5);
  if (late.Chance(0.85)) {
    app_.first_framing = app_.framings.front().get();
    options_.framing = app_.first_framing->framing();
  }
  if (late.Chance(0.5)) options_.message_timeout = milliseconds(late.Size(5000));
}

// ---- The run.

RunResult Simulation::Run() {
  const FailingMemory memory(this);
  if (Start()) {
    const Faults faults = Faults::Draw(choices_);
    if (settings_.faults && settings_.nth_failure == 0 && settings_.nth_allocation == 0) {
      network_.faults = faults;
    }
    if (settings_.nth_failure != 0) network_.FailOnly(settings_.nth_failure);
    Chaos();
    network_.faults = {};
    if (!failed()) End();
  }
  result_.failure = network_.failure();
  result_.trace = network_.trace();
  result_.could_fail = network_.could_have_failed();
  result_.hooks = app_.hooks();
  result_.connections = app_.established();
  if (failed()) {
    // After a failure the engine may not be possible to take down: it is left as it is.
    (void)engine_.release();
  }
  return result_;
}

bool Simulation::Start() {
  const Status valid = ValidateOptions(options_);
  network_.Check(valid.ok(), valid.message.c_str());
  StageFactory stages;
  if (stages_ != 0) {
    stages = [count = stages_] { return testing::Scramblers(count); };
  }
  engine_ = std::make_unique<Engine>(app_, options_, kSimPortKind, stages);
  app_.engine = engine_.get();
  for (std::size_t i = 0; i < listeners_; ++i) {
    network_.Check(engine_->Listen({}).ok(), "cannot listen");
  }
  workers_ = std::make_unique<Stepper>(*engine_, network_);
  for (std::size_t i = 0; i < workers_->count(); ++i) {
    network_.Check(!engine_->worker(i).Open(), "cannot open a port");
  }
  return !failed();
}

void Simulation::Chaos() {
  for (std::size_t moves = choices_.Size(3000); moves > 0 && !failed() && !workers_->all_left();
       --moves) {
    Move();
    CheckCounters(false);
  }
}

void Simulation::Move() {
  if (choices_.Chance(network_.faults.clock_jump)) {
    Advance(network_.now() + milliseconds(choices_.Size(60'000)));
  }
  if (choices_.Chance(network_.faults.spurious)) {
    const std::size_t index = choices_.Below(workers_->count());
    if (!workers_->left(index)) Turn(index);
    return;
  }
  if (choices_.Chance(network_.faults.broken_port)) {
    network_.ports[choices_.Below(network_.ports.size())]->Break();
  }
  const std::uint64_t what = choices_.Below(100);
  if (what < 55) {
    if (!TurnOfOne()) {
      app_.CheckNobodyWaits();
      LetTimePass();
    }
  } else if (what < 65 && clients_.size() < most_clients_) {
    Dial();
  } else if (what < 90 && !clients_.empty()) {
    MoveClient(*clients_[choices_.Below(clients_.size())]);
  } else if (what < 97) {
    app_.ActFromOutside();
  } else {
    LetTimePass();
  }
}

// Everything ends, in one of two ways: the clients are served and go, or the server stops.
void Simulation::End() {
  const TimePoint latest = network_.now() + kLongest;
  bool stopping = app_.stop_requested();
  if (choices_.Chance(0.5) && !stopping) {
    stopping = true;
    engine_->RequestStop(network_.now() + seconds(choices_.Below(10)));
  }
  app_.liveliness = 0;
  app_.ResumeAll();
  while (!failed()) {
    const bool moved = TurnOfOne();
    if (!moved) app_.CheckNobodyWaits();
    CheckCounters(false);
    if (workers_->all_left()) break;
    bool clients_moved = false;
    for (const auto& client : clients_) clients_moved = Finish(*client) || clients_moved;
    if (!stopping &&
        std::all_of(clients_.begin(), clients_.end(),
                    [](const auto& client) { return client->done; }) &&
        engine_->connection_count() == 0) {
      stopping = true;
      engine_->RequestStop(network_.now() + seconds(5));
    } else if (!moved && !clients_moved) {
      if (NextMoment() == TimePoint::max()) return network_.Fail("nothing will ever move again");
      LetTimePass();
    }
    if (network_.now() > latest) return network_.Fail("it does not end in half an hour");
    if (result_.turns > kMostTurns) return network_.Fail("it does not end in 200,000 turns");
  }
  if (failed()) return;
  for (const auto& client : clients_) Finish(*client);
  CheckCounters(true);
  network_.Check(app_.AllReported(), "a connection's end was not reported");
  app_.LetGo();
  engine_.reset();
  network_.Check(network_.ports.empty(), "a port was left");
  network_.Check(network_.open_descriptors() == 0, "a descriptor was left");
}

bool Simulation::Fails(bool can_throw) {
  ++result_.allocations;
  if (settings_.nth_allocation != 0) return result_.allocations == settings_.nth_allocation;
  return !can_throw && choices_.Chance(network_.faults.no_memory);
}

// ---- Workers and time.

bool Simulation::TurnOfOne() {
  std::vector<std::size_t> runnable;
  for (std::size_t i = 0; i < workers_->count(); ++i) {
    if (workers_->Runnable(i)) runnable.push_back(i);
  }
  if (runnable.empty()) return false;
  Turn(runnable[choices_.Below(runnable.size())]);
  return true;
}

void Simulation::Turn(std::size_t index) {
  if (workers_->in_turn(index)) return;
  ++result_.turns;
  ++depth_;
  network_.Note("turn", index, 0);
  {
    const FailingMemory::Scope armed(true);
    workers_->Turn(index);
  }
  --depth_;
}

// Inside a hook: another worker may run until its turn ends.
void Simulation::Yield() {
  const FailingMemory::Scope unarmed(false);
  if (depth_ < workers_->count() && choices_.Chance(interleaving_)) TurnOfOne();
}

TimePoint Simulation::NextMoment() {
  return std::min(network_.NextEvent(), workers_->NextDeadline());
}

void Simulation::LetTimePass() {
  if (depth_ == 0 && !workers_->AnyRunnable()) {
    app_.CheckTimers();
    app_.CheckMessages();
  }
  const TimePoint next = NextMoment();
  if (next != TimePoint::max()) Advance(next);
}

// Oracle: whoever is silent for too long is closed in time, once every worker has had its turns.
void Simulation::Advance(TimePoint time) {
  bool at_rest = true;
  for (std::size_t i = 0; i < workers_->count(); ++i) at_rest = at_rest && !workers_->Runnable(i);
  app_.CheckSilence(at_rest);
  network_.AdvanceTo(time);
}

// ---- Clients.

void Simulation::Dial() {
  const auto& listeners = engine_->listeners();
  LinkPtr link = network_.Connect(listeners[choices_.Below(listeners.size())]->address());
  if (link == nullptr) return;
  const std::uint16_t port = link->client_port;
  auto client = std::make_unique<Client>();
  client->peer = std::make_unique<SimPeer>(network_, std::move(link));
  for (std::size_t i = 0; i < stages_; ++i) {
    auto stage = std::make_unique<testing::ScrambledPeer>(std::move(client->peer));
    client->stages.push_back(stage.get());
    client->peer = std::move(stage);
  }
  client->account = &accounts_.try_emplace(port, port).first->second;
  client->to_send = choices_.Chance(0.2) ? 0 : choices_.Size(20'000);
  if (!app_.framings.empty()) {
    const std::size_t size = choices_.Chance(0.05) ? choices_.Size(300'000) : client->to_send;
    client->account->script = std::make_unique<const Script>(
        Script::Draw(choices_, app_.framings, app_.first_framing, size));
    client->to_send = client->account->script->bytes.size();
  }
  client->reads = choices_.OneOf({0.0, 0.3, 0.9});
  client->ends = choices_.OneOf({0.0, 0.02, 0.2});
  client->closes = choices_.OneOf({0.0, 0.0, 0.05});
  client->resets = choices_.OneOf({0.0, 0.0, 0.05});
  client->breaks = stages_ == 0 ? 0.0 : choices_.OneOf({0.0, 0.0, 0.02});
  network_.Note("dial", port, client->to_send);
  clients_.push_back(std::move(client));
}

void Simulation::MoveClient(Client& client) {
  if (client.done) return;
  Account& account = *client.account;
  if (!account.client_ended && account.client_sent < client.to_send) {
    const std::size_t size = choices_.Size(client.to_send - account.client_sent);
    account.client_sent += client.peer->Send(app_.Sendable(account, size));
  }
  if (choices_.Chance(client.reads)) Read(client, choices_.Size(65'536));
  if (client.done) return;
  if (client.breaks != 0 && choices_.Chance(client.breaks)) Break(client);
  if (choices_.Chance(client.ends)) {
    network_.Note("client ends", client.peer->port(), account.client_sent);
    account.client_ended = true;
    client.peer->EndStream();
  }
  if (choices_.Chance(client.closes)) {
    network_.Note("client closes", client.peer->port(), account.client_sent);
    account.client_ended = true;
    client.peer->Close();
    client.done = true;
  } else if (choices_.Chance(client.resets)) {
    network_.Note("client resets", client.peer->port(), account.client_sent);
    account.client_reset = true;
    client.peer->Reset();
    client.done = true;
  }
}

// Bytes that it sends then may never be seen.
void Simulation::Break(Client& client) {
  testing::ScrambledPeer& stage = *client.stages[choices_.Below(client.stages.size())];
  network_.Note("client breaks a stage", stage.port(), 0);
  if (choices_.Chance(0.5)) {
    stage.Poison();
  } else {
    stage.Truncate();
    client.account->client_ended = true;
  }
}

void Simulation::Read(Client& client, std::size_t most) {
  Account& account = *client.account;
  const std::string bytes = client.peer->Receive(most);
  network_.Check(account.DownIs(account.client_received, bytes), "a client receives wrong bytes");
  account.client_received += bytes.size();
  network_.Check(account.client_received <= account.accepted,
                 "a client receives more than was sent");
  if (client.peer->state() == Peer::State::kOpen) return;
  const bool in_order = client.peer->state() == Peer::State::kEnded;
  network_.Note(in_order ? "client sees the end" : "client sees a reset", client.peer->port(),
                account.client_received);
  if (in_order) {
    network_.Check(account.client_received == account.accepted,
                   "a client sees the end of the stream before all that was sent");
    account.client_ended = true;
  }
  client.peer->Close();
  client.done = true;
}

// Without faults: reads all there is, sends all it wants, ends its stream. False when it waits.
bool Simulation::Finish(Client& client) {
  if (client.done) return false;
  Account& account = *client.account;
  const std::uint64_t received = account.client_received;
  const std::uint64_t sent = account.client_sent;
  const std::size_t waiting = client.Waiting();
  if (!account.client_ended && account.client_sent < client.to_send) {
    const std::string bytes =
        account.UpAt(account.client_sent, client.to_send - account.client_sent);
    account.client_sent += client.peer->Send(bytes);
  }
  Read(client, 1'000'000);
  if (client.done) return true;
  if (!account.client_ended && account.client_sent == client.to_send && client.Waiting() == 0) {
    account.client_ended = true;
    client.peer->EndStream();
    return true;
  }
  return received != account.client_received || sent != account.client_sent ||
         waiting != client.Waiting();
}

// ---- Oracles.

void Simulation::CheckCounters(bool at_the_end) {
  if (failed()) return;
  const Stats stats = engine_->stats();
  SimPort::Reported reported;
  std::size_t adopted = 0;
  for (const SimPort* port : network_.ports) {
    reported.accepts += port->reported().accepts;
    reported.accept_errors += port->reported().accept_errors;
    reported.received_bytes += port->reported().received_bytes;
    reported.sent_bytes += port->reported().sent_bytes;
    adopted += port->adopted();
  }
  const auto check = [&](bool holds, const char* what) { network_.Check(holds, what); };
  check(stats.accepted == reported.accepts, "counter: accepted");
  // Without memory for a connection there is an error that the port does not know of.
  check(stats.accept_errors >= reported.accept_errors, "counter: accept_errors");
  check(stats.established == app_.established(), "counter: established");
  std::uint64_t closed = 0;
  for (std::size_t i = 0; i < kCloseReasons; ++i) {
    check(stats.closed[i] == app_.closed(i), "counter: closed");
    closed += stats.closed[i];
  }
  check(stats.connections == adopted, "counter: connections");
  check(stats.connections <= static_cast<std::uint64_t>(options_.max_connections),
        "more connections than max_connections");
  if (options_.at_capacity == AtCapacity::kWait) {
    check(network_.open_connections() <= static_cast<std::size_t>(options_.max_connections),
          "more sockets than max_connections");
  }
  check(stats.sends_refused == app_.refused(), "counter: sends_refused");
  check(stats.broadcasts_skipped == app_.skipped(), "counter: broadcasts_skipped");
  check(stats.messages == app_.messages(), "counter: messages");
  check(stats.send_backlog == app_.SumOfBacklogs(), "gauge: send_backlog");
  check(stats.hook_calls == app_.hooks(), "counter: hook_calls");
  check(stats.hook_errors == app_.thrown(), "counter: hook_errors");
  check(stats.bytes_received <= reported.received_bytes, "counter: bytes_received");
  check(stats.bytes_sent <= reported.sent_bytes, "counter: bytes_sent");
  app_.CheckQueues();
  app_.CheckKept();
  if (!at_the_end) return;
  check(stats.connections == 0, "a connection was left");
  check(stats.bytes_sent == reported.sent_bytes, "counter: bytes_sent, at the end");
  check(closed == stats.established, "established, and never closed");
  check(stats.pending_accepts == 0, "accepts were left");
  check(network_.left_to_take.empty(), "closed in order and not reported, with bytes to take");
}

}  // namespace

RunResult Simulate(Choices& choices, const RunSettings& settings) {
  const std::size_t before = LiveAllocations();
  RunResult result = Simulation(choices, settings).Run();
  if (result.failure.empty() && LiveAllocations() != before) {
    result.failure = "memory was left: " + std::to_string(LiveAllocations() - before) + " pieces";
  }
  return result;
}

}  // namespace iocp::sim
