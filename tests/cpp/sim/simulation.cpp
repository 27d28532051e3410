#include "simulation.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sim_port.h"
#include "simulation_run.h"

namespace iocp::sim {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// More than any run needs that goes on; fewer than would be a nuisance.
constexpr std::uint64_t kMostTurns = 200'000;
constexpr std::chrono::minutes kLongest{30};

}  // namespace

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
  // Few, as handshakes take long.
  if (late.Chance(0.03)) tls_ = RunTls::Begin();
  if (tls_ != nullptr) options_.tls = tls_->server();
  stages_ = choices_.OneOf<std::size_t>({0, 0, 0, 1, 2});
  app_.staged = stages_ != 0 || tls_ != nullptr;
  app_.tls = tls_.get();
  app_.tls_on_top = tls_ != nullptr && stages_ == 0;
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
  const bool fails = settings_.nth_allocation != 0
                         ? result_.allocations == settings_.nth_allocation
                         : !can_throw && choices_.Chance(network_.faults.no_memory);
  lacked_memory_ = lacked_memory_ || fails;
  return fails;
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
    app_.CheckStages();
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
  if (tls_ != nullptr) CheckTlsCounters(stats, at_the_end);
  if (!at_the_end) return;
  check(stats.connections == 0, "a connection was left");
  check(stats.bytes_sent == reported.sent_bytes, "counter: bytes_sent, at the end");
  check(closed == stats.established, "established, and never closed");
  check(stats.pending_accepts == 0, "accepts were left");
  // Those whose handshake has failed may be taking the reason.
  std::erase_if(network_.left_to_take, [this](std::uint16_t port) {
    return tls_ != nullptr && !accounts_.at(port).established;
  });
  check(network_.left_to_take.empty(), "closed in order and not reported, with bytes to take");
}

void Simulation::CheckTlsCounters(const Stats& stats, bool at_the_end) {
  constexpr std::size_t kMostBytes = std::size_t{64} * 1024;  // for each connection; and for caches
  std::uint64_t ended = stats.tls_handshakes;
  for (std::size_t i = 0; i < kTlsFailures; ++i) {
    ended += stats.tls_failures[i];
    network_.Check(stats.tls_failures[i] == app_.handshakes_failed(i),
                   "a handshake that has failed was counted, and not reported for that cause");
  }
  network_.Check(stats.established <= stats.tls_handshakes, "established without a handshake");
  network_.Check(stats.tls_resumed <= stats.tls_handshakes, "counter: tls_resumed");
  network_.Check(ended <= stats.accepted, "counters: handshakes, and those that failed");
  network_.Check(tls_->objects() <= stats.connections, "an SSL object outlives its connection");
  network_.Check(tls_->bytes() <= (stats.connections + 1) * kMostBytes,
                 "TLS takes more memory than its limit allows");
  // A stage above may not have become ready when TLS was.
  if (!at_the_end || stats.accept_errors != 0 || stages_ != 0) return;
  network_.Check(ended + stats.refused == stats.accepted, "a handshake was not counted");
}

RunResult Simulate(Choices& choices, const RunSettings& settings) {
  RunTls::Prepare();
  const std::size_t before = LiveAllocations();
  RunResult result = Simulation(choices, settings).Run();
  if (result.failure.empty() && LiveAllocations() != before) {
    result.failure = "memory was left: " + std::to_string(LiveAllocations() - before) + " pieces";
  }
  return result;
}

}  // namespace iocp::sim
