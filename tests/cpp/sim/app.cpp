#include "app.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "memory.h"
#include "session/session.h"

namespace iocp::sim {

// From the beginning of a hook to its end: hooks of one connection never overlap.
class App::HookScope {
 public:
  HookScope(App& app, Known& known, const char* name, std::uint64_t detail)
      : app_(app), known_(known) {
    ++app.hooks_;
    app.Check(!std::exchange(known.in_hook, true), "hooks of one connection overlap");
    app.Check(app.batches_ > 0, "a hook outside a batch");
    app.network_.Note(name, known.connection->remote_address().port, detail);
  }
  HookScope(const HookScope&) = delete;
  HookScope& operator=(const HookScope&) = delete;
  ~HookScope() {
    app_.yield();
    known_.in_hook = false;
  }

 private:
  const FailingMemory::Scope unarmed_{false};
  App& app_;
  Known& known_;
};

// Bytes lent to a send: they come back exactly once.
struct App::Loan {
  App* app;
  std::string bytes;

  static void Release(void* self) {
    const FailingMemory::Scope unarmed(false);
    auto* loan = static_cast<Loan*>(self);
    loan->app->Check(loan->app->batches_ > 0, "shared bytes are given back outside a batch");
    --loan->app->loans_;
    delete loan;
  }
};

App::Known& App::Of(Connection& connection) {
  auto& known = known_[connection.id()];
  if (known.account == nullptr) {
    network_.Fail("a hook of a connection that was never established");
    known.connection = ConnectionPtr(&connection);
    known.account = &accounts_.begin()->second;
  }
  return known;
}

// ---- Hooks.

void App::OnConnectionEstablished(Connection& connection) {
  const FailingMemory::Scope unarmed(false);
  Known& known = known_[connection.id()];
  Check(known.account == nullptr, "established twice");
  known.connection = ConnectionPtr(&connection);
  const auto account = accounts_.find(connection.remote_address().port);
  if (account == accounts_.end()) return network_.Fail("a client that nobody knows");
  known.account = &account->second;
  Check(!std::exchange(known.account->established, true), "a client established twice");
  const StageStack* const stages = Session::Of(connection).outbound().stages();
  Check(stages == nullptr || stages->ready(), "established before its stages are ready");
  connection.user_data = &known;
  living_.push_back(&known);
  ++established_;
  const HookScope scope(*this, known, "established", connection.remote_address().port);
  Act(known, true);
}

void App::OnReadCompleted(Connection& connection, Buffer& buffer) {
  const FailingMemory::Scope unarmed(false);
  Known& known = Of(connection);
  const HookScope scope(*this, known, "read", buffer.size());
  Check(!known.closed && !known.errored && !known.ended, "a read behind the end");
  Check(!known.ended_here, "a read after close");
  Check(!known.paused, "a read while paused");
  Check(buffer.size() > 0, "a read of nothing");
  Check(known.account->up.Is(known.account->delivered, buffer.view()), "received bytes are wrong");
  known.account->delivered += buffer.size();
  Check(known.account->delivered <= known.account->client_sent, "more received than was sent");
  if (choices().Chance(0.1)) kept_.push_back(std::move(buffer));
  if (kept_.size() > 8) kept_.erase(kept_.begin());
  Act(known, true);
}

void App::OnWriteCompleted(Connection& connection, std::size_t size) {
  const FailingMemory::Scope unarmed(false);
  Known& known = Of(connection);
  const HookScope scope(*this, known, "write", size);
  Check(!known.closed && !known.errored, "a write behind the end");
  Check(!known.unwritten.empty() && known.unwritten.front() == size,
        "a write was completed that is not the next");
  if (!known.unwritten.empty()) known.unwritten.pop_front();
  Act(known, true);
}

EndOfStream App::OnEndOfStream(Connection& connection) {
  const FailingMemory::Scope unarmed(false);
  Known& known = Of(connection);
  const HookScope scope(*this, known, "end of stream", known.account->delivered);
  Check(!known.closed && !known.errored, "an end of the stream behind the end");
  Check(!std::exchange(known.ended, true), "the stream ends twice");
  Check(!known.ended_here, "an end of the stream after close");
  Check(!known.paused, "an end of the stream while paused");
  Check(known.account->client_ended, "the stream of a peer that has not ended it");
  Check(known.account->delivered == known.account->client_sent,
        "the stream has ended before all of it was delivered");
  // Towards the end of the run nobody would close it later.
  known.kept_open = liveliness != 0 && choices().Chance(0.5);
  Act(known, true);
  return known.kept_open ? EndOfStream::kKeepOpen : EndOfStream::kClose;
}

void App::OnConnectionError(Connection& connection, Error error) {
  const FailingMemory::Scope unarmed(false);
  Known& known = Of(connection);
  const HookScope scope(*this, known, "error", static_cast<std::uint64_t>(error.kind));
  Check(!known.closed && !known.errored, "an error behind the end");
  Check(error.kind != ErrorKind::kNone && error.kind != ErrorKind::kEndOfStream &&
            error.kind != ErrorKind::kCancelled,
        "an error that is none");
  Check(error.kind != ErrorKind::kReset ||
            network_.reset_to_server.count(connection.remote_address().port) != 0,
        "broken by a reset that nobody has sent");
  known.errored = true;
  Act(known, true);
}

void App::OnConnectionClosing(Connection& connection, CloseReason reason) {
  const FailingMemory::Scope unarmed(false);
  Known& known = Of(connection);
  const HookScope scope(*this, known, "closing", static_cast<std::uint64_t>(reason));
  Check(!std::exchange(known.closed, true), "closing twice");
  Check(!connection.is_open(), "closing, and still open");
  Check(known.errored || reason != CloseReason::kError, "closed by an error that was not reported");
  Check(connection.send_backlog() == 0, "closed, and there is a backlog");
  Check(!wants_writes || known.unwritten.empty() || known.unwritten.front() != 0,
        "an empty send was not completed, though all before it is with the system");
  if (reason == CloseReason::kPeerClosed) {
    Check(known.account->client_ended, "a peer that has not ended its stream has closed");
    Check(!known.kept_open, "closed for the end of the stream, and it was to stay open");
    Check(known.ended_here || known.account->delivered == known.account->client_sent,
          "the peer's stream has ended before all of it was delivered");
  }
  CheckTimeOut(connection.remote_address().port, reason);
  ++closed_[static_cast<std::size_t>(reason)];
  std::erase(living_, &known);
  Act(known, true);
}

// Who spoke is not silent, and who takes bytes is not stuck, however long the hooks of others took.
void App::CheckTimeOut(std::uint16_t port, CloseReason reason) {
  const auto found = network_.given_up.find(port);
  if (found == network_.given_up.end()) return;
  const Network::GivenUp& end = found->second;
  const Options& options = engine->options();
  switch (reason) {
    case CloseReason::kFirstDataTimeout:
      // Bytes that a stage has kept for itself are no data.
      Check(staged || (!end.speaks && !end.heard), "closed as silent, and it spoke");
      return;
    case CloseReason::kIdleTimeout:
      Check(!end.speaks && end.at >= end.heard_at + *options.idle_timeout,
            "closed as idle, and it spoke");
      Check(!end.takes, "closed as idle, and it takes bytes");
      return;
    case CloseReason::kWriteTimeout:
      Check(!end.takes && end.at >= end.took_at + *options.write_timeout,
            "closed by write_timeout, and it takes bytes");
      return;
    default:
      return;
  }
}

void App::OnHookError(Connection& connection, Hook, const std::exception_ptr&) {
  const FailingMemory::Scope unarmed(false);
  Of(connection).ended_here = true;
  network_.Note("hook error", connection.remote_address().port, 0);
  if (choices().Chance(0.2)) {
    throw std::runtime_error("a hook error in the handler of hook errors");
  }
  connection.Abort(CloseReason::kHookError);
}

void App::OnConnectionReleased(Connection& connection) {
  const FailingMemory::Scope unarmed(false);
  Known& known = Of(connection);
  Check(known.closed && !known.in_hook, "released before the closing hook has ended");
  Check(!std::exchange(known.released, true), "released twice");
  if (choices().Chance(0.5)) dead_.push_back(std::move(known.connection));
  known.connection = ConnectionPtr();
}

void App::OnBatchBegin() {
  ++batches_;
  yield();
}

void App::OnBatchEnd() {
  --batches_;
  Check(batches_ >= 0, "a batch ends twice");
}

// ---- The work of hooks, and programs.

void App::Act(Known& known, bool in_hook) {
  yield();
  while (choices().Chance(liveliness)) {
    Known& target = choices().Chance(0.2) && !living_.empty()
                        ? *living_[choices().Below(living_.size())]
                        : known;
    if (!target.connection) return;  // it has ended while another worker moved
    Connection& connection = *target.connection;
    const std::uint64_t what = choices().Below(100);
    if (what < 70) {
      SendSome(target, choices().Chance(0.05)
                           ? 0
                           : choices().Size(choices().Chance(0.02) ? 300'000 : 4096));
    } else if (what < 76) {
      network_.Note("close", connection.remote_address().port, 0);
      connection.Close();
      target.ended_here = true;
    } else if (what < 79) {
      network_.Note("abort", connection.remote_address().port, 0);
      connection.Abort();
      target.ended_here = true;
    } else if (what < 86) {
      // In a hook of another connection it may come while a read is on its way into its hook.
      if (!in_hook || &target != &known) continue;
      network_.Note("pause", connection.remote_address().port, 0);
      connection.PauseReading();
      target.paused = true;
    } else if (what < 95) {
      network_.Note("resume", connection.remote_address().port, 0);
      target.paused = false;
      connection.ResumeReading();
    } else if (what < 97 && in_hook) {
      ++thrown_;
      throw std::runtime_error("by chance");
    } else if (what == 97) {
      Stop();
    } else if (what == 98) {
      // So many small ones that what they cost is more than their bytes.
      for (std::uint64_t more = choices().Below(100); more > 0 && target.connection; --more) {
        SendSome(target, choices().Below(3));
      }
    } else {
      yield();
    }
  }
}

void App::SendSome(Known& known, std::size_t size) {
  Connection& connection = *known.connection;
  Account& account = *known.account;
  const bool was_closed = known.closed;
  std::string bytes = account.down.At(account.accepted, size);
  SendResult result{};
  // Known before it can be out.
  known.unwritten.push_back(size);
  account.accepted += size;
  try {
    const FailingMemory::Scope armed(true);
    switch (choices().Below(3)) {
      case 0: {
        const std::size_t half = size / 2;
        const std::string_view pieces[] = {std::string_view(bytes).substr(0, half),
                                           std::string_view(bytes).substr(half)};
        result = connection.Send(pieces, 2);
        break;
      }
      case 1: {
        Loan* loan = nullptr;
        {
          const FailingMemory::Scope unarmed(false);
          loan = new Loan{this, std::move(bytes)};
        }
        ++loans_;
        const char* data = loan->bytes.data();
        const auto take_back = [&] {
          --loans_;
          delete loan;
        };
        try {
          result = connection.Send(SharedBytes{data, size, &Loan::Release, loan});
        } catch (...) {
          take_back();
          throw;
        }
        if (result != SendResult::kAccepted) take_back();
        break;
      }
      default:
        result = connection.Send(bytes.data(), size);
        break;
    }
  } catch (...) {
    known.unwritten.pop_back();
    account.accepted -= size;
    ++thrown_;
    throw;
  }
  network_.Note(result == SendResult::kAccepted ? "send" : "send refused",
                connection.remote_address().port, size);
  if (result != SendResult::kAccepted) {
    known.unwritten.pop_back();
    account.accepted -= size;
    return;
  }
  Check(!was_closed, "a send was accepted after closing");
  CheckMemory(connection);
}

// A queue takes memory up to the limit, and the send that was accepted just below it. A part of the
// one at the front may be out; the heap rounds up.
void App::CheckMemory(Connection& connection) {
  Session& session = Session::Of(connection);
  Inbox& inbox = session.inbox();
  const MutexLock lock(inbox.mutex());
  std::size_t taken = 0;
  std::size_t first = 0;
  std::size_t last = 0;
  for (const SendQueue* queue : {&session.outbound().queue(), &inbox.sends()}) {
    for (const SendItem* item = queue->first(); item != nullptr; item = item->next) {
      const bool copied = item->data == reinterpret_cast<const char*>(item + 1);
      last = AllocatedBytes(item) + (copied ? 0 : item->size);
      if (taken == 0) first = last;
      taken += last;
    }
  }
  const std::size_t most = engine->options().send_backlog_limit + first + last;
  Check(taken <= most + taken / 16, "a backlog takes more memory than its limit allows");
}

// Reads that the port had in hand may follow: those of the batch that made it pause and those that
// were posted then, twice if the owner has resumed it meanwhile; the end of the stream, and a
// send.
void App::CheckQueues() {
  const auto reads = static_cast<std::size_t>(std::max(network_.settings.reads, 1));
  for (const Known* known : living_) {
    if (!known->connection) continue;
    const StageStack* const stages = Session::Of(*known->connection).outbound().stages();
    Check(stages == nullptr || stages->waiting() <= 5 * StageStack::kMostAhead,
          "what stages have made waits without a bound");
    Inbox& inbox = Session::Of(*known->connection).inbox();
    const MutexLock lock(inbox.mutex());
    Check(inbox.mail_size() <= Inbox::kMostMail + 4 * reads + 2,
          "a mailbox grows for as long as a hook runs");
  }
}

void App::ActFromOutside() {
  if (!dead_.empty() && choices().Chance(0.1)) {
    // A dead handle answers and does nothing.
    const ConnectionPtr& dead = dead_[choices().Below(dead_.size())];
    Check(dead->Send("x", 1) == SendResult::kClosed, "a dead connection has taken a send");
    dead->Close();
    dead->Abort();
    dead->ResumeReading();
    return;
  }
  if (living_.empty()) return;
  try {
    Act(*living_[choices().Below(living_.size())], false);
  } catch (const std::bad_alloc&) {
    --thrown_;
  }
}

void App::Stop() {
  network_.Note("stop", 0, 0);
  stop_requested_ = true;
  engine->RequestStop(network_.now() + std::chrono::milliseconds(choices().Size(8000)));
}

void App::ResumeAll() {
  for (Known* known : living_) {
    known->paused = false;
    known->connection->ResumeReading();
    if (known->kept_open) {
      known->ended_here = true;
      known->connection->Close();
    }
  }
}

void App::LetGo() {
  kept_.clear();
  dead_.clear();
  for (auto& [id, known] : known_) known.connection = ConnectionPtr();
}

bool App::AllReported() const { return living_.empty() && loans_ == 0 && batches_ == 0; }

}  // namespace iocp::sim
