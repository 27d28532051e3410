#include "iocp.h"

#include <algorithm>
#include <new>
#include <string>
#include <system_error>
#include <utility>

#include "base/mutex.h"
#include "base/thread.h"
#include "engine/engine.h"
#include "engine/options.h"
#include "port/completion_port.h"
#include "session/broadcast.h"
#include "stage/tls/tls_stage.h"

namespace iocp {
namespace {

// The state that the threads of one run share. Each keeps it alive, as the Server may be gone.
struct Run {
  explicit Run(std::unique_ptr<Engine> e) : engine(std::move(e)) {}

  std::unique_ptr<Engine> engine;
  Mutex mutex;
  CondVar changed;
  std::size_t opened = 0;  // workers whose port is open, or failed to open
  std::size_t left = 0;    // workers that have left
  Error open_error;        // of the first that failed
  enum class Start : std::uint8_t { kUndecided, kGo, kGiveUp } start = Start::kUndecided;
  bool stopped = false;  // true exactly when all workers of a run that went have left

  void WaitUntilStopped() {
    MutexLock lock(mutex);
    changed.Wait(mutex, [&] { return stopped; });
  }
};

// The run whose worker this thread is, for the thread's whole life; null on every other thread.
thread_local const Run* run_of_worker = nullptr;

Status NoBackend(const std::string& message) {
  return {Status::Problem::kNoBackend, {ErrorKind::kUnsupported, 0}, message};
}

// The kind that `name` asks for, or the best one for "auto".
const PortKind* ChooseKind(const std::string& name, Status* status) {
  const PortKinds kinds = BuiltInPortKinds();
  std::string reasons;
  for (std::size_t i = 0; i < kinds.count; ++i) {
    const PortKind* kind = kinds.first[i];
    if (name != "auto" && name != kind->name) continue;
    const std::string reason = kind->why_unavailable();
    if (reason.empty()) return kind;
    reasons += std::string(reasons.empty() ? "" : "; ") + kind->name + ": " + reason;
  }
  if (!reasons.empty()) {
    *status = NoBackend("no usable backend: " + reasons);
    return nullptr;
  }
  std::string known = "'auto'";
  for (const BackendInfo& info : Backends()) {
    if (info.name == name) {
      *status = NoBackend("backend '" + name + "' is not available: " + info.reason);
      return nullptr;
    }
    known += ", '" + info.name + "'";
  }
  status->problem = Status::Problem::kBadOption;
  status->error = {ErrorKind::kInvalidArgument, 0};
  status->message = "backend must be one of " + known + ", not '" + name + "'";
  return nullptr;
}

}  // namespace

std::vector<BackendInfo> Backends() {
  std::vector<BackendInfo> backends;
  const PortKinds kinds = BuiltInPortKinds();
  for (std::size_t i = 0; i < kinds.count; ++i) {
    const std::string reason = kinds.first[i]->why_unavailable();
    backends.push_back({kinds.first[i]->name, reason.empty(), reason});
  }
  for (BackendInfo& absent : AbsentBackends()) backends.push_back(std::move(absent));
  return backends;
}

struct Server::Lifecycle {
  explicit Lifecycle(Handler& h) : handler(h) {}

  Handler& handler;
  mutable Mutex mutex;
  CondVar changed;
  std::shared_ptr<Run> run;     // null when there is none whose threads are to be joined
  std::vector<Thread> threads;  // of `run`; not joined yet
  bool starting = false;        // true exactly while a Start is under way
  bool joining = false;         // true exactly while a thread joins `threads`
  Address address;
  std::string backend;
  Stats stats;  // of the last run, when `run` is null

  [[nodiscard]] std::shared_ptr<Run> CurrentRun() const {
    const MutexLock lock(mutex);
    return run;
  }
  [[nodiscard]] bool Running() const {
    const std::shared_ptr<Run> current = CurrentRun();
    if (current == nullptr) return false;
    const MutexLock lock(current->mutex);
    return !current->stopped;
  }
  // Leaves nothing behind when it fails, also by an exception.
  Status Start(const Options& options);
  // Joins the threads of `of`, which has stopped, unless somebody else does or has; waits for that.
  void Join(const std::shared_ptr<Run>& of);
  // Leaves the threads of the run, if there is one, to themselves: they touch nothing of this.
  void Detach();
  static void WorkerMain(Handler& handler, const std::shared_ptr<Run>& run, std::size_t index);
  Error OpenWorkers(const std::shared_ptr<Run>& new_run, std::vector<Thread>& new_threads);
  static void GiveUp(const std::shared_ptr<Run>& run, std::vector<Thread>& threads);
};

void Server::Lifecycle::WorkerMain(Handler& handler, const std::shared_ptr<Run>& run,
                                   std::size_t index) {
  run_of_worker = run.get();
  Engine& engine = *run->engine;
  Worker& worker = engine.worker(index);
  const Error error = worker.Open();
  {
    MutexLock lock(run->mutex);
    if (error && !run->open_error) run->open_error = error;
    ++run->opened;
    run->changed.NotifyAll();
    run->changed.Wait(run->mutex, [&] { return run->start != Run::Start::kUndecided; });
    if (run->start == Run::Start::kGiveUp) return;
  }
  handler.OnWorkerBegin();
  worker.Run();
  handler.OnWorkerEnd();
  {
    const MutexLock lock(run->mutex);
    if (++run->left < engine.worker_count()) return;
    run->stopped = true;
    run->changed.NotifyAll();
  }
  handler.OnStopped();
}

void Server::Lifecycle::Join(const std::shared_ptr<Run>& of) {
  MutexLock lock(mutex);
  changed.Wait(mutex, [&] { return !joining; });
  if (of == nullptr || run != of) return;
  std::vector<Thread> mine = std::exchange(threads, {});
  joining = true;
  lock.Unlock();
  for (Thread& thread : mine) thread.Join();
  lock.Lock();
  joining = false;
  // The run is over: its descriptors and its memory go, its figures stay.
  const std::shared_ptr<Run> over = std::exchange(run, nullptr);
  stats = over->engine->stats();
  changed.NotifyAll();
  lock.Unlock();
}

// Starts one thread per worker and waits until each has opened its port. Returns the first error.
Error Server::Lifecycle::OpenWorkers(const std::shared_ptr<Run>& new_run,
                                     std::vector<Thread>& new_threads) {
  const std::size_t count = new_run->engine->worker_count();
  try {
    for (std::size_t i = 0; i < count; ++i) {
      const std::string name = "iocp-worker-" + std::to_string(i);
      // Not `this`: in a hook the server may be destroyed.
      new_threads.emplace_back(name.c_str(),
                               [&to = handler, new_run, i] { WorkerMain(to, new_run, i); });
    }
  } catch (const std::system_error& error) {
    return {ErrorKind::kOutOfResources, error.code().value()};
  }
  MutexLock lock(new_run->mutex);
  new_run->changed.Wait(new_run->mutex, [&] { return new_run->opened == count; });
  return new_run->open_error;
}

void Server::Lifecycle::GiveUp(const std::shared_ptr<Run>& run, std::vector<Thread>& threads) {
  {
    const MutexLock lock(run->mutex);
    run->start = Run::Start::kGiveUp;
  }
  run->changed.NotifyAll();
  for (Thread& thread : threads) thread.Join();
}

void Server::Lifecycle::Detach() {
  const MutexLock lock(mutex);
  for (Thread& thread : threads) thread.Detach();
  threads.clear();
}

Server::Server(Handler& handler) : lifecycle_(std::make_unique<Lifecycle>(handler)) {}

Server::~Server() {
  Shutdown();
  // On a worker thread Shutdown has not waited, as the thread might wait for itself.
  if (OnWorkerThread()) lifecycle_->Detach();
}

Status Server::Lifecycle::Start(const Options& options) {
  Status status = ValidateOptions(options);
  if (!status.ok()) return status;
  const PortKind* kind = ChooseKind(options.backend, &status);
  if (kind == nullptr) return status;

  const auto running_already = [] {
    return Status{
        Status::Problem::kAlreadyRunning, {}, "the server is running already; call shutdown first"};
  };
  const std::shared_ptr<Run> before = CurrentRun();
  // In OnStopped, too, the thread would wait for itself.
  if (Running() || (before != nullptr && before.get() == run_of_worker)) return running_already();
  Join(before);  // the threads of a run that a hook shut down
  {
    const MutexLock lock(mutex);
    if (std::exchange(starting, true)) return running_already();
  }
  const struct Starting {
    Lifecycle& life;
    ~Starting() {
      const MutexLock lock(life.mutex);
      life.starting = false;
    }
  } starting_now{*this};

  const auto new_run = std::make_shared<Run>(std::make_unique<Engine>(handler, options, *kind));
  Engine& engine = *new_run->engine;
  // The Tls was made with what one shard needs; the others need as much.
  if (options.tls) PrepareTls(options.tls, engine.shard_count());
  status = engine.Listen({options.host, options.port, options.listen_backlog, options.no_delay,
                          options.reuse_port, options.dual_stack, options.keepalive});
  if (!status.ok()) return status;

  std::vector<Thread> new_threads;
  Error error;
  try {
    error = OpenWorkers(new_run, new_threads);
  } catch (const std::bad_alloc&) {
    error = {ErrorKind::kOutOfResources, 0};
  }
  if (error) {
    GiveUp(new_run, new_threads);
    status.problem = Status::Problem::kSystem;
    status.error = error;
    status.message = std::string("cannot start the workers of backend '") + kind->name + "'";
    return status;
  }
  {
    const MutexLock lock(mutex);
    run = new_run;
    threads = std::move(new_threads);
    address = engine.listeners().front()->address();
    backend = kind->name;
  }
  {
    const MutexLock lock(new_run->mutex);
    new_run->start = Run::Start::kGo;
  }
  new_run->changed.NotifyAll();
  return status;
}

Status Server::Start(const Options& options) {
  try {
    return lifecycle_->Start(options);
  } catch (const std::bad_alloc&) {
    return {Status::Problem::kSystem, {ErrorKind::kOutOfResources, 0}, "out of memory"};
  } catch (const TlsError& error) {
    return {Status::Problem::kBadOption,
            {ErrorKind::kInvalidArgument, 0},
            std::string("tls: ") + error.what()};
  }
}

void Server::Shutdown(Duration timeout) {
  const std::shared_ptr<Run> run = lifecycle_->CurrentRun();
  if (run == nullptr) return;
  // A year is for ever, and cannot overflow.
  timeout = std::clamp<Duration>(timeout, Duration::zero(), std::chrono::hours(24 * 365));
  run->engine->RequestStop(run->engine->Now() + timeout);
  if (OnWorkerThread()) return;
  run->WaitUntilStopped();
  lifecycle_->Join(run);
}

bool Server::WaitUntilStopped(std::optional<Duration> timeout) {
  const std::shared_ptr<Run> run = lifecycle_->CurrentRun();
  if (run == nullptr) return true;
  if (OnWorkerThread()) timeout = Duration::zero();
  if (!timeout) {
    run->WaitUntilStopped();
    return true;
  }
  MutexLock lock(run->mutex);
  return run->changed.WaitFor(run->mutex, *timeout, [&] { return run->stopped; });
}

bool Server::OnWorkerThread() { return run_of_worker != nullptr; }

bool Server::running() const { return lifecycle_->Running(); }

bool Server::stopping() const {
  const std::shared_ptr<Run> run = lifecycle_->CurrentRun();
  if (run == nullptr || !run->engine->stopping()) return false;
  const MutexLock lock(run->mutex);
  return !run->stopped;
}

Address Server::address() const {
  const MutexLock lock(lifecycle_->mutex);
  return lifecycle_->address;
}

std::string Server::backend() const {
  const MutexLock lock(lifecycle_->mutex);
  return lifecycle_->backend;
}

std::size_t Server::connection_count() const {
  const std::shared_ptr<Run> run = lifecycle_->CurrentRun();
  return run == nullptr ? 0 : run->engine->connection_count();
}

std::vector<ConnectionPtr> Server::connections() const {
  std::vector<ConnectionPtr> connections;
  const std::shared_ptr<Run> run = lifecycle_->CurrentRun();
  if (run != nullptr) run->engine->Snapshot(connections);
  return connections;
}

Stats Server::stats() const {
  const MutexLock lock(lifecycle_->mutex);
  return lifecycle_->run == nullptr ? lifecycle_->stats : lifecycle_->run->engine->stats();
}

TimerHandle Server::CallSoon(Callback callback) {
  const std::shared_ptr<Run> run = lifecycle_->CurrentRun();
  if (run == nullptr) return {};
  return run->engine->Schedule(CallKind::kSoon, {}, {}, std::move(callback));
}

TimerHandle Server::CallLater(Duration delay, Callback callback) {
  const std::shared_ptr<Run> run = lifecycle_->CurrentRun();
  if (run == nullptr) return {};
  return run->engine->Schedule(CallKind::kLater, delay, {}, std::move(callback));
}

TimerHandle Server::CallEvery(Duration interval, Callback callback) {
  const std::shared_ptr<Run> run = lifecycle_->CurrentRun();
  if (run == nullptr) return {};
  interval = std::max(interval, Duration(1));
  return run->engine->Schedule(CallKind::kEvery, interval, interval, std::move(callback));
}

bool Server::SetTls(const Tls& tls) {
  if (!tls) throw TlsError("a server that runs cannot go on without TLS: give it a Tls");
  if (!tls.is_server()) throw TlsError("tls must be made by Tls::Server, not by Tls::Client");
  const std::shared_ptr<Run> run = lifecycle_->CurrentRun();
  if (run == nullptr || !running()) return false;
  PrepareTls(tls, run->engine->shard_count());
  run->engine->SetTls(tls);
  return true;
}

void Server::CloseAllConnections() {
  for (const ConnectionPtr& connection : connections()) connection->Close();
}

namespace {

std::size_t SendToAll(const Server& server, Broadcasting& what, const Connection* exclude,
                      std::vector<ConnectionPtr>* full) {
  std::vector<ConnectionPtr> to = server.connections();
  if (exclude != nullptr) {
    std::erase_if(to, [&](const ConnectionPtr& connection) { return connection.get() == exclude; });
  }
  const std::size_t accepted = what.SendToEach(to);
  if (full != nullptr) *full = std::move(to);
  return accepted;
}

std::size_t SendToSome(Broadcasting& what, std::vector<ConnectionPtr>&& to,
                       std::vector<ConnectionPtr>* full) {
  RemoveDuplicates(to);
  const std::size_t accepted = what.SendToEach(to);
  if (full != nullptr) *full = std::move(to);
  return accepted;
}

}  // namespace

std::size_t Server::Broadcast(const void* data, std::size_t size, const Connection* exclude,
                              std::vector<ConnectionPtr>* full) {
  BytesBroadcast bytes({static_cast<const char*>(data), size});
  return SendToAll(*this, bytes, exclude, full);
}

std::size_t Server::Broadcast(const void* data, std::size_t size, std::vector<ConnectionPtr> to,
                              std::vector<ConnectionPtr>* full) {
  BytesBroadcast bytes({static_cast<const char*>(data), size});
  return SendToSome(bytes, std::move(to), full);
}

std::size_t Server::BroadcastMessage(std::string_view message, const Connection* exclude,
                                     std::vector<ConnectionPtr>* full) {
  MessageBroadcast broadcast(message);
  return SendToAll(*this, broadcast, exclude, full);
}

std::size_t Server::BroadcastMessage(std::string_view message, std::vector<ConnectionPtr> to,
                                     std::vector<ConnectionPtr>* full) {
  MessageBroadcast broadcast(message);
  return SendToSome(broadcast, std::move(to), full);
}

}  // namespace iocp
