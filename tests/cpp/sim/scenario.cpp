#include "scenario.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "memory.h"
#include "sim_port.h"

namespace iocp::sim {
namespace {

// More than any scenario needs that goes on.
constexpr int kMostTurns = 100'000;

Network::Settings ForNetwork(const Scenario::Setup& setup) {
  Network::Settings settings;
  settings.window = setup.window;
  settings.reads = setup.reads;
  settings.shared = setup.shared;
  settings.wait_passes_time = false;
  return settings;
}

Options WithWorkers(Options options, int workers) {
  options.workers = workers;
  return options;
}

}  // namespace

// ---- The server.

// One hook of one connection: none other of it runs, and none after closing.
class ScriptedHandler::HookScope {
 public:
  HookScope(ScriptedHandler& handler, Connection& connection)
      : record(handler.records[connection.remote_address().port]) {
    EXPECT_FALSE(std::exchange(record.in_hook, true)) << "hooks of one connection overlap";
    EXPECT_FALSE(record.closed) << "a hook after closing";
    EXPECT_EQ(record.connection, &connection);
  }
  HookScope(const HookScope&) = delete;
  HookScope& operator=(const HookScope&) = delete;
  ~HookScope() { record.in_hook = false; }

  Record& record;
};

std::size_t ScriptedHandler::closed() const {
  return static_cast<std::size_t>(std::count_if(
      records.begin(), records.end(), [](const auto& entry) { return entry.second.closed; }));
}

void ScriptedHandler::OnConnectionEstablished(Connection& connection) {
  Record& record = records[connection.remote_address().port];
  EXPECT_EQ(record.connection, nullptr) << "established twice";
  record.connection = &connection;
  const HookScope scope(*this, connection);
  if (on_established) on_established(connection);
}

void ScriptedHandler::OnReadCompleted(Connection& connection, Buffer& buffer) {
  const HookScope scope(*this, connection);
  scope.record.received += buffer.view();
  if (on_read) on_read(connection, buffer);
}

void ScriptedHandler::OnWriteCompleted(Connection& connection, std::size_t size) {
  const HookScope scope(*this, connection);
  scope.record.written.push_back(size);
}

void ScriptedHandler::OnConnectionError(Connection& connection, Error error) {
  const HookScope scope(*this, connection);
  scope.record.error = error;
}

void ScriptedHandler::OnConnectionClosing(Connection& connection, CloseReason reason) {
  const HookScope scope(*this, connection);
  scope.record.closed = reason;
  if (on_closing) on_closing(connection);
}

// ---- The scenario.

Scenario::Scenario(const Setup& setup)
    : network_(choices_, ForNetwork(setup)), options_(WithWorkers(setup.options, setup.workers)) {
  handler_.hooks = setup.hooks;
  NativeSocket listener = kNoSocket;
  EXPECT_TRUE(kSimPortKind.listen({}, &listener, &bound_).ok());
  engine_ =
      std::make_unique<Engine>(handler_, options_, kSimPortKind, listener, bound_, setup.stages);
  seats_.resize(engine_->worker_count());
  for (std::size_t i = 0; i < seats_.size(); ++i) EXPECT_FALSE(engine_->worker(i).Open());
  engine_->BeginAccepting();
}

Scenario::~Scenario() {
  handler_.on_established = nullptr;
  handler_.on_read = nullptr;
  handler_.on_closing = nullptr;
  network_.faults = {};
  network_.exhausted = false;
  network_.yield = [] {};
  LetAllCome();
  RequestStop(Duration::zero());
  PassTime(std::chrono::seconds(1));
  EXPECT_TRUE(all_left()) << "a worker does not leave";
  EXPECT_EQ(network_.failure(), "");
  for (const auto& [port, record] : handler_.records) {
    EXPECT_TRUE(record.closed) << "established, and never closed";
  }
  EXPECT_EQ(stats().buffers_in_use, 0U);
  engine_.reset();
  EXPECT_TRUE(network_.ports.empty());
  EXPECT_EQ(network_.open_descriptors(), 0U);
}

Scenario::Client Scenario::Dial() {
  LinkPtr link = network_.Connect(bound_);
  EXPECT_NE(link, nullptr) << "nobody listens";
  return std::make_unique<SimPeer>(network_, std::move(link));
}

Scenario::Client Scenario::Connect() {
  Client client = Dial();
  StepAll();
  EXPECT_EQ(handler_.records.count(client->port()), 1U) << "it is not served";
  return client;
}

std::string Scenario::ReceiveAll(const Client& client) {
  std::string data;
  for (int i = 0; i < 100 && client->state() == SimPeer::State::kOpen; ++i) {
    std::string more = client->Receive(1'000'000);
    PassTime(more.empty() ? std::chrono::milliseconds(10) : std::chrono::milliseconds(0));
    data += more;
    if (!more.empty()) i = 0;
  }
  return data;
}

void Scenario::Step(std::size_t worker) {
  Seat& seat = seats_[worker];
  ASSERT_FALSE(seat.in_turn);
  if (seat.left) return;
  seat.in_turn = true;
  seat.left = !engine_->worker(worker).Turn();
  seat.in_turn = false;
  EXPECT_TRUE(!seat.left || engine_->stopping()) << "a worker has ended";
}

std::size_t Scenario::InTurn() const {
  const auto seat =
      std::find_if(seats_.begin(), seats_.end(), [](const Seat& s) { return s.in_turn; });
  return static_cast<std::size_t>(seat - seats_.begin());
}

bool Scenario::Runnable(std::size_t worker) {
  if (seats_[worker].left || seats_[worker].in_turn) return false;
  Worker& candidate = engine_->worker(worker);
  return candidate.Deadline() <= network_.now() ||
         static_cast<SimPort&>(candidate.shard().port()).Ready();
}

void Scenario::StepAll() {
  bool moved = true;
  for (int turns = 0; moved; ++turns) {
    ASSERT_LT(turns, kMostTurns) << "a busy loop";
    moved = false;
    for (std::size_t i = 0; i < seats_.size(); ++i) {
      if (!Runnable(i)) continue;
      Step(i);
      moved = true;
    }
  }
}

void Scenario::PassTime(Duration duration) {
  const TimePoint end = network_.now() + duration;
  for (;;) {
    StepAll();
    TimePoint next = network_.NextEvent();
    for (std::size_t i = 0; i < seats_.size(); ++i) {
      if (!seats_[i].left && !seats_[i].in_turn) {
        next = std::min(next, engine_->worker(i).Deadline());
      }
    }
    if (network_.now() == end || ::testing::Test::HasFatalFailure()) return;
    network_.AdvanceTo(std::min(next, end));
  }
}

void Scenario::LetCome(std::function<bool(const Completion&)> which) {
  network_.held_back = [which = std::move(which)](const Completion& completion) {
    return !which(completion);
  };
}

bool Scenario::all_left() const {
  return std::all_of(seats_.begin(), seats_.end(), [](const Seat& seat) { return seat.left; });
}

// ---- The fixture.

void DefectsTest::SetUp() { live_before_ = LiveAllocations(); }

void DefectsTest::TearDown() {
  if (HasFailure()) return;  // and its messages are left
  EXPECT_EQ(LiveAllocations(), live_before_) << "memory was left";
}

}  // namespace iocp::sim
