// The server as a whole in a forced order of events: accepting, timers, workers, stopping, what is
// shared. Each order is one in which the original went wrong; docs/evidence/testing.md has the list
// of its defects.
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <new>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "scenario.h"
#include "sim_port.h"

namespace iocp::sim {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;
using State = SimPeer::State;

class ServerOrderTest : public ScenarioTest {};

Scenario::Setup Workers(int workers, bool shared) {
  Scenario::Setup setup;
  setup.workers = workers;
  setup.shared = shared;
  return setup;
}

// A client that asks and is answered.
void ExpectServed(Scenario& scenario) {
  scenario.handler().on_read = [](Connection& connection, Buffer& buffer) {
    connection.Send(buffer.data(), buffer.size());
  };
  const auto client = scenario.Connect();
  client->Send("served?");
  scenario.StepAll();
  EXPECT_EQ(client->Receive(100), "served?");
}

TEST_F(ServerOrderTest, TheCountIsTrueAtEveryMomentWhileAllAreClosed) {
  constexpr std::size_t kClients = 12;
  Scenario scenario(Workers(3, false));
  std::vector<Scenario::Client> clients;
  for (std::size_t i = 0; i < kClients; ++i) clients.push_back(scenario.Connect());
  const auto expect_true_count = [&] {
    std::size_t sockets = 0;
    for (const SimPort* port : scenario.network().ports) sockets += port->adopted();
    EXPECT_EQ(scenario.engine().connection_count(), sockets);
    EXPECT_GE(scenario.engine().connection_count() + scenario.closed(), kClients - 3)
        << "gone without a word";
  };
  scenario.handler().on_closing = [&](Connection&, CloseReason) { expect_true_count(); };
  std::vector<ConnectionPtr> connections;
  scenario.engine().Snapshot(connections);
  EXPECT_EQ(connections.size(), kClients);
  for (const ConnectionPtr& connection : connections) connection->Close();
  connections.clear();
  expect_true_count();
  EXPECT_EQ(scenario.engine().connection_count(), kClients) << "they live until they are closed";
  for (Scenario::Client& client : clients) {
    client.reset();
    for (std::size_t worker = 0; worker < 3; ++worker) {
      scenario.Step(worker);
      expect_true_count();
    }
  }
  scenario.StepAll();
  EXPECT_EQ(scenario.engine().connection_count(), 0U);
  EXPECT_EQ(scenario.closed(), kClients);
  EXPECT_EQ(scenario.stats().closed[static_cast<std::size_t>(CloseReason::kLocalClose)], kClients);
}

TEST_F(ServerOrderTest, WithoutADescriptorAcceptingIsRetriedWithBackOff) {
  Scenario scenario({});
  const int accepts = static_cast<int>(scenario.stats().pending_accepts);
  scenario.network().exhausted = true;
  const auto client = scenario.Dial();
  scenario.StepAll();
  std::uint64_t errors = 1;
  EXPECT_EQ(scenario.stats().accept_errors, errors);
  EXPECT_EQ(scenario.stats().pending_accepts, 0U);
  for (const int pause : {100, 200, 400, 800, 1000, 1000, 1000}) {
    scenario.PassTime(milliseconds(pause - 1));
    EXPECT_EQ(scenario.stats().accept_errors, errors) << "too early, for a pause of " << pause;
    scenario.PassTime(milliseconds(1));
    EXPECT_EQ(scenario.stats().accept_errors, ++errors) << "not tried again after " << pause;
  }
  EXPECT_EQ(scenario.handler().warnings.size(), 1U);
  scenario.network().exhausted = false;
  scenario.PassTime(seconds(1));
  EXPECT_TRUE(scenario.Knows(client));
  EXPECT_EQ(scenario.stats().pending_accepts, static_cast<std::uint64_t>(accepts));
}

// It comes together with the end of accepting, while there is still a client to be waited for.
TEST_F(ServerOrderTest, AShortageReportedWhenAcceptingEndsIsNotRetried) {
  Scenario scenario({});
  const auto client = scenario.Connect();
  scenario.network().exhausted = true;
  const auto newcomer = scenario.Dial();
  scenario.LetCome([](const Completion&) { return false; });
  scenario.Step(0);
  scenario.RequestStop(seconds(4));
  scenario.StepAll();
  scenario.LetAllCome();
  scenario.StepAll();
  EXPECT_EQ(scenario.stats().accept_errors, 1U);
  scenario.PassTime(seconds(2));  // longer than the longest pause; a busy loop fails
  EXPECT_FALSE(scenario.all_left());
  scenario.network().exhausted = false;
}

TEST_F(ServerOrderTest, EveryAcceptThatFailsIsReplaced) {
  Scenario scenario({});
  const std::uint64_t accepts = scenario.stats().pending_accepts;
  EXPECT_GT(accepts, 0U);
  scenario.network().faults.accept_error = 1;
  for (std::uint64_t i = 1; i <= 200; ++i) {
    const auto client = scenario.Dial();
    scenario.StepAll();
    EXPECT_EQ(scenario.stats().accept_errors, i);
    EXPECT_EQ(scenario.stats().pending_accepts, accepts);
  }
  scenario.network().faults = {};
  ExpectServed(scenario);
}

TEST_F(ServerOrderTest, OnlyItsOwnerActsOnAConnectionsTimer) {
  Scenario::Setup setup = Workers(2, true);
  setup.options.first_data_timeout = seconds(1);
  Scenario scenario(setup);
  const auto late = scenario.Connect();
  const auto silent = scenario.Connect();
  bool in_time = false;
  scenario.handler().on_read = [&](Connection& connection, Buffer&) {
    // Both timers go off at another worker.
    scenario.network().AdvanceTo(scenario.network().now() + seconds(5));
    for (int i = 0; i < 5; ++i) scenario.Step(1);
    EXPECT_EQ(scenario.Of(silent).closed, CloseReason::kFirstDataTimeout);
    EXPECT_EQ(Session::Of(connection).phase(), Phase::kOpen) << "closed under its hook";
    in_time = connection.is_open();
  };
  scenario.PassTime(milliseconds(999));
  late->Send("just in time");
  scenario.Step(0);
  scenario.StepAll();
  EXPECT_TRUE(in_time);
  EXPECT_FALSE(scenario.Of(late).closed);
}

TEST_F(ServerOrderTest, SilentClientsGoOnTimeUnderConstantAcceptsAndHoldNoAccept) {
  constexpr std::size_t kSilent = 150;  // more than there are accepts
  Scenario::Setup setup;
  setup.options.first_data_timeout = seconds(2);
  setup.options.max_connections = 10'000;
  Scenario scenario(setup);
  const std::uint64_t accepts = scenario.stats().pending_accepts;
  std::vector<Scenario::Client> silent;
  for (std::size_t i = 0; i < kSilent; ++i) silent.push_back(scenario.Dial());
  scenario.StepAll();
  const TimePoint connected = scenario.network().now();
  Duration earliest = Duration::max();
  Duration latest{};
  std::size_t closed = 0;
  scenario.handler().on_closing = [&](Connection& connection, CloseReason) {
    if (connection.remote_address().port > silent.back()->port()) return;
    const Duration after = scenario.network().now() - connected;
    earliest = std::min(earliest, after);
    latest = std::max(latest, after);
    ++closed;
  };
  // No turn without a newcomer.
  for (int i = 0; i < 2500; ++i) {
    scenario.network().AdvanceTo(scenario.network().now() + milliseconds(1));
    scenario.Dial();  // and goes
    scenario.Step(0);
    ASSERT_EQ(scenario.stats().pending_accepts, accepts);
  }
  EXPECT_EQ(closed, kSilent);
  EXPECT_GE(earliest, seconds(2));
  EXPECT_LE(latest, seconds(2) + milliseconds(20));
}

// The system's pointers and counts go through the boundary whole.
static_assert(std::is_same_v<decltype(Completion::socket), Socket*>);
static_assert(std::is_same_v<decltype(Completion::posting), Posting*>);
static_assert(std::is_same_v<decltype(Completion::bytes), std::size_t>);

TEST_F(ServerOrderTest, OnlyAStopEndsAWorker) {
  for (const bool shared : {false, true}) {
    Scenario scenario(Workers(3, shared));
    const auto client = scenario.Connect();
    // Postings of every other kind. Each step checks that no worker leaves.
    for (int i = 0; i < 10; ++i) {
      scenario.engine().WakeAllShards();
      scenario.ConnectionOf(client).Send("x", 1);
      scenario.StepAll();
    }
    EXPECT_FALSE(scenario.all_left());
    scenario.RequestStop(seconds(1));
    scenario.StepAll();
    scenario.ReceiveAll(client);
    client->Close();
    scenario.StepAll();
    EXPECT_TRUE(scenario.all_left()) << "the stop has not reached all";
  }
}

TEST_F(ServerOrderTest, AWaitThatBringsNothingIsHarmless) {
  for (const bool shared : {false, true}) {
    Scenario scenario(Workers(2, shared));
    for (int i = 0; i < 100; ++i) scenario.Step(static_cast<std::size_t>(i) % 2);
    ExpectServed(scenario);
    for (int i = 0; i < 100; ++i) scenario.Step(static_cast<std::size_t>(i) % 2);
    ExpectServed(scenario);
    EXPECT_EQ(scenario.stats().accept_errors, 0U);
  }
}

TEST_F(ServerOrderTest, NoFailedCompletionEndsAWorker) {
  double Faults::* const kFaults[] = {&Faults::accept_error, &Faults::accept_exhausted,
                                      &Faults::adopt_error,  &Faults::reset,
                                      &Faults::send_error,   &Faults::late_cancel};
  for (const bool shared : {false, true}) {
    Scenario scenario(Workers(2, shared));
    for (double Faults::* fault : kFaults) {
      const auto client = scenario.Connect();
      scenario.ConnectionOf(client).Send("x", 1);
      scenario.network().faults.*fault = 1;
      const auto newcomer = scenario.Dial();
      // Each step checks that no worker leaves.
      scenario.StepAll();
      if (scenario.Of(client).closed == std::nullopt) scenario.ConnectionOf(client).Abort();
      scenario.StepAll();
      scenario.network().faults = {};
      scenario.PassTime(seconds(2));
      ExpectServed(scenario);
      ExpectServed(scenario);
    }
  }
}

// At a stop the client takes nothing, and the system is late with the end of what was cancelled: of
// the connection's operations, or of the accept.
TEST_F(ServerOrderTest, NothingIsFreedBeforeItsLastCompletion) {
  struct Loan {
    std::string bytes = std::string(1000, 'l');
    int returned = 0;
  } loan;
  for (const auto& [shared, accept_is_late] :
       {std::pair{false, false}, {false, true}, {true, false}, {true, true}}) {
    loan.returned = 0;
    Scenario::Setup setup = Workers(2, shared);
    setup.window = 256;
    Scenario scenario(setup);
    const auto client = scenario.Connect();
    const ConnectionPtr connection(&scenario.ConnectionOf(client));
    const SharedBytes bytes{loan.bytes.data(), loan.bytes.size(),
                            [](void* owner) { ++static_cast<Loan*>(owner)->returned; }, &loan};
    EXPECT_EQ(connection->Send(bytes), SendResult::kAccepted);
    scenario.StepAll();
    scenario.LetCome([late = accept_is_late](const Completion& c) {
      return c.error.kind != ErrorKind::kCancelled || (c.operation == Operation::kAccept) != late;
    });
    scenario.RequestStop(seconds(1));
    scenario.PassTime(milliseconds(999));
    EXPECT_LT(Session::Of(*connection).phase(), Phase::kCancelling) << "aborted too early";
    scenario.PassTime(milliseconds(11));
    EXPECT_GE(Session::Of(*connection).phase(), Phase::kCancelling) << "not bounded";
    scenario.PassTime(hours(1));
    EXPECT_FALSE(scenario.all_left()) << "a worker has not waited";
    EXPECT_EQ(scenario.engine().connection_count(), accept_is_late ? 0U : 1U);
    EXPECT_EQ(scenario.Of(client).closed.has_value(), accept_is_late);
    EXPECT_EQ(loan.returned, accept_is_late ? 1 : 0) << "freed while the system may still send it";
    scenario.LetAllCome();
    scenario.StepAll();
    EXPECT_TRUE(scenario.all_left());
    EXPECT_EQ(scenario.Of(client).closed, CloseReason::kShutdown);
    EXPECT_EQ(loan.returned, 1);
  }
}

TEST_F(ServerOrderTest, AClosingHookMayWaitForAnotherConnectionsClose) {
  Scenario scenario(Workers(2, true));
  const auto first = scenario.Connect();
  const auto second = scenario.Connect();
  Connection& other = scenario.ConnectionOf(second);
  int hooks = 0;
  scenario.handler().on_closing = [&](Connection& connection, CloseReason) {
    ++hooks;
    // Another thread may want these while this hook runs.
    bool free = false;
    std::thread([&] {
      Mutex& mutex = Session::Of(connection).inbox().mutex();
      free = mutex.try_lock();
      if (free) mutex.unlock();
      std::vector<ConnectionPtr> connections;
      scenario.engine().Snapshot(connections);
    }).join();
    EXPECT_TRUE(free) << "a hook runs under the connection's lock";
    if (&connection == &other) return;
    other.Abort();
    for (int i = 0; i < 5; ++i) scenario.Step(1);
    EXPECT_EQ(scenario.Of(second).closed, CloseReason::kLocalAbort);
  };
  first->Reset();
  scenario.Step(0);
  scenario.Step(0);
  EXPECT_EQ(hooks, 2);
}

// Nothing of a connection is ever copied; a session that is used again is made anew.
static_assert(!std::is_copy_constructible_v<Session> && !std::is_move_constructible_v<Session>);
static_assert(!std::is_copy_assignable_v<Session> && !std::is_move_assignable_v<Session>);

TEST_F(ServerOrderTest, ASessionThatIsUsedAgainIsMadeAnew) {
  TimerQueue* const timers = TimerQueue::Create();
  SessionPool* const pool = SessionPool::Create(1, *timers);
  Session* const session = pool->Take();
  ASSERT_NE(session, nullptr);
  session->user_data = pool;
  {
    const MutexLock lock(session->inbox().mutex());
    EXPECT_TRUE(session->inbox().RequestClose(CloseReason::kShutdown));
    const std::string_view byte = "x";
    SendItem* const item = SendItem::Copy(&byte, 1, nullptr);
    session->outbound().Accept(session->inbox().sends(), item);
  }
  ASSERT_TRUE(session->inbox().Finish());
  ASSERT_FALSE(session->is_open());
  ASSERT_EQ(session->send_backlog(), 1U);
  session->DropReference();
  Session* const again = pool->Take();
  EXPECT_EQ(again, session);
  EXPECT_EQ(again->user_data, nullptr);
  EXPECT_TRUE(again->is_open());
  EXPECT_EQ(again->phase(), Phase::kOpen);
  EXPECT_EQ(again->send_backlog(), 0U);
  EXPECT_FALSE(again->inbox().has_requests());
  ASSERT_TRUE(again->inbox().mutex().try_lock());
  EXPECT_FALSE(again->inbox().finished());
  EXPECT_TRUE(again->inbox().sends().empty());
  again->inbox().mutex().unlock();
  // The caller's reference is the only one.
  again->DropReference();
  EXPECT_EQ(pool->free(), 1U);
  pool->Close();
  timers->DropReference();
}

// Sessions of which each has its pages to itself, so that who touches one that is locked away is
// caught.
class LockedAway {
 public:
  explicit LockedAway(std::size_t count)
      : count_(count),
        size_((sizeof(Session) / PageSize() + 1) * PageSize()),
        memory_(static_cast<char*>(::mmap(nullptr, count_ * size_, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    EXPECT_NE(memory_, MAP_FAILED);
    for (std::size_t i = 0; i < count_; ++i) new (memory_ + i * size_) Session(nullptr);
  }
  LockedAway(const LockedAway&) = delete;
  LockedAway& operator=(const LockedAway&) = delete;
  ~LockedAway() {
    Lock(0, count_, false);
    for (std::size_t i = 0; i < count_; ++i) (*this)[i].~Session();
    ::munmap(memory_, count_ * size_);
  }

  Session& operator[](std::size_t i) {
    return *std::launder(reinterpret_cast<Session*>(memory_ + i * size_));
  }
  // Those from `first` to before `last`.
  void Lock(std::size_t first, std::size_t last, bool locked) {
    if (first == last) return;
    EXPECT_EQ(::mprotect(memory_ + first * size_, (last - first) * size_,
                         locked ? PROT_NONE : PROT_READ | PROT_WRITE),
              0);
  }

 private:
  static std::size_t PageSize() { return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }

  const std::size_t count_;
  const std::size_t size_;  // of the pages of one
  char* const memory_;
};

TEST_F(ServerOrderTest, RemovingAConnectionTouchesItsNeighboursOnly) {
  constexpr std::size_t kCount = 1000;
  Choices choices{1};
  Network network(choices, {});
  Shard shard(kSimPortKind, Options{}, nullptr, 0);
  LockedAway sessions(kCount);
  const TimePoint deadline = network.now() + seconds(120);
  for (std::size_t i = 0; i < kCount; ++i) {
    shard.Insert(sessions[i]);
    shard.ArmTimer(sessions[i], deadline);
  }
  // From the middle, and from either end of the list.
  for (const std::size_t gone : {kCount / 2, std::size_t{0}, kCount - 1}) {
    const std::size_t low = gone == 0 ? 0 : gone - 1;
    const std::size_t high = std::min(gone + 2, kCount);
    sessions.Lock(0, low, true);
    sessions.Lock(high, kCount, true);
    shard.DisarmTimer(sessions[gone]);
    shard.Remove(sessions[gone]);
    sessions.Lock(0, kCount, false);
  }
  EXPECT_EQ(shard.connection_count(), kCount - 3);
  std::size_t left = 0;
  shard.ForEach([&](const Session&) { ++left; });
  EXPECT_EQ(left, kCount - 3);
  for (std::size_t i = 0; i < kCount; ++i) shard.DisarmTimer(sessions[i]);
}

}  // namespace
}  // namespace iocp::sim
