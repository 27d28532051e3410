#include "scenario.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
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
  settings.sends_now = setup.sends_now;
  settings.wait_passes_time = false;
  return settings;
}

Options WithWorkers(Options options, int workers) {
  options.workers = workers;
  return options;
}

}  // namespace

std::vector<Scenario::Setup> Scenario::Setups() {
  std::vector<Setup> setups;
  for (const int reads : {0, 1, 4}) {
    for (const bool shared : {false, true}) {
      Setup& setup = setups.emplace_back();
      setup.workers = shared ? 2 : 1;
      setup.shared = shared;
      setup.reads = reads;
      setup.options.buffer_size = 512;
    }
  }
  return setups;
}

Scenario::Scenario(const Setup& setup)
    : network_(choices_, ForNetwork(setup)), options_(WithWorkers(setup.options, setup.workers)) {
  handler_.hooks = setup.hooks;
  engine_ = std::make_unique<Engine>(handler_, options_, kSimPortKind, setup.stages);
  for (int i = 0; i < setup.listeners; ++i) EXPECT_TRUE(engine_->Listen({}).ok());
  network_.faults = setup.faults;
  workers_ = std::make_unique<Stepper>(*engine_, network_);
  for (std::size_t i = 0; i < workers_->count(); ++i) EXPECT_FALSE(engine_->worker(i).Open());
  StepAll();  // each begins to accept
}

Scenario::~Scenario() {
  handler_.on_established = nullptr;
  handler_.on_read = nullptr;
  handler_.on_message = nullptr;
  handler_.on_messages = nullptr;
  handler_.on_writable = nullptr;
  handler_.on_end_of_stream = nullptr;
  handler_.on_closing = nullptr;
  handler_.on_batch = nullptr;
  network_.faults = {};
  network_.exhausted = false;
  network_.yield = [] {};
  LetAllCome();
  RequestStop(Duration::zero());
  PassTime(std::chrono::seconds(1));
  EXPECT_TRUE(all_left()) << "a worker does not leave";
  EXPECT_EQ(network_.failure(), "");
  for (const auto& [id, record] : handler_.records) {
    EXPECT_TRUE(record.closed) << "established, and never closed";
  }
  EXPECT_EQ(stats().buffers_in_use, 0U);
  engine_.reset();
  EXPECT_TRUE(network_.ports.empty());
  EXPECT_EQ(network_.open_descriptors(), 0U);
}

Scenario::Client Scenario::Dial(std::size_t listener) {
  LinkPtr link = network_.Connect(engine_->listeners()[listener]->address());
  EXPECT_NE(link, nullptr) << "nobody listens";
  return std::make_unique<SimPeer>(network_, std::move(link));
}

Scenario::Client Scenario::Connect() {
  Client client = Dial();
  StepAll();
  EXPECT_TRUE(Knows(client)) << "it is not served";
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
  ASSERT_FALSE(workers_->in_turn(worker));
  if (workers_->left(worker)) return;
  workers_->Turn(worker);
  EXPECT_TRUE(!workers_->left(worker) || engine_->stopping()) << "a worker has ended";
}

void Scenario::StepAll() {
  bool moved = true;
  for (int turns = 0; moved; ++turns) {
    ASSERT_LT(turns, kMostTurns) << "a busy loop";
    moved = false;
    for (std::size_t i = 0; i < workers_->count(); ++i) {
      if (!workers_->Runnable(i)) continue;
      Step(i);
      moved = true;
    }
  }
}

void Scenario::PassTime(Duration duration) {
  const TimePoint end = network_.now() + duration;
  for (;;) {
    StepAll();
    const TimePoint next = std::min(network_.NextEvent(), workers_->NextDeadline());
    if (network_.now() == end || ::testing::Test::HasFatalFailure()) return;
    network_.AdvanceTo(std::min(next, end));
  }
}

void Scenario::LetCome(std::function<bool(const Completion&)> which) {
  network_.held_back = [which = std::move(which)](const Completion& completion) {
    return !which(completion);
  };
}

std::size_t Scenario::closed() const {
  const auto& records = handler_.records;
  return static_cast<std::size_t>(std::count_if(
      records.begin(), records.end(), [](const auto& entry) { return entry.second.closed; }));
}

RecordingHandler::Record& Scenario::Of(const Client& client) {
  RecordingHandler::Record* const record = Find(client);
  if (record == nullptr) throw std::out_of_range("the client was never established");
  return *record;
}

RecordingHandler::Record* Scenario::Find(const Client& client) {
  for (auto& [id, record] : handler_.records) {
    if (record.remote.port == client->port()) return &record;
  }
  return nullptr;
}

// ---- The fixture.

void ScenarioTest::SetUp() { live_before_ = LiveAllocations(); }

void ScenarioTest::TearDown() {
  if (HasFailure()) return;  // and its messages are left
  EXPECT_EQ(LiveAllocations(), live_before_) << "memory was left";
}

}  // namespace iocp::sim
