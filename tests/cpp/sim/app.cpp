#include "app.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "app_scopes.h"
#include "memory.h"
#include "session/session.h"

namespace iocp::sim {

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
  known.idle_timeout = engine->options().idle_timeout;
  known.receive_timeout = engine->options().receive_timeout;
  if (!framings.empty()) {
    known.messages = std::make_unique<MessagesOracle>(network_, *known.account, first_framing);
  }
  known.silent_from = network_.now();  // it may have been accepted before, but nobody watched it
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
  Check(known.messages == nullptr || known.messages->framing() == nullptr,
        "bytes, and the connection has a framing");
  Check(known.account->UpIs(known.account->delivered, buffer.view()), "received bytes are wrong");
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

void App::OnConnectionWritable(Connection& connection) {
  const FailingMemory::Scope unarmed(false);
  Known& known = Of(connection);
  const HookScope scope(*this, known, "writable", connection.send_backlog());
  Check(wants_writable, "writable, and nobody wants to know");
  Check(!known.closed && !known.errored, "writable behind the end");
  Check(connection.is_open() && !known.ended_here, "writable after close");
  Check(!known.ended || known.kept_open, "writable behind an end that was to close");
  LookForAFall(known);
  Check(std::exchange(known.rose, false), "writable, and it was not above the high mark");
  Check(known.fallen || known.may_have_fallen, "writable above the low mark");
  known.may_have_fallen = false;
  Act(known, true);
}

EndOfStream App::OnEndOfStream(Connection& connection) {
  const FailingMemory::Scope unarmed(false);
  Known& known = Of(connection);
  const HookScope scope(*this, known, "end of stream", known.account->delivered);
  Check(!known.closed && !known.errored, "an end of the stream behind the end");
  Check(!std::exchange(known.ended, true), "the stream ends twice");
  known.ended_at = network_.now();
  Check(!known.ended_here, "an end of the stream after close");
  Check(!known.paused, "an end of the stream while paused");
  Check(known.account->client_ended, "the stream of a peer that has not ended it");
  // A stage above TLS has an end of its own.
  Check(!tls_on_top || known.account->tls_said_end, "a stream that was cut off ends in order");
  if (known.messages) known.messages->SkipRest();
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
  known.error = error.kind;
  CheckTlsError(known);
  if (error.kind == ErrorKind::kBadFrame) {
    Check(known.messages != nullptr, "a bad frame without a framing");
    if (known.messages == nullptr) return;
    known.messages->CheckFault(connection.frame_fault(), connection.bytes_received());
  }
  Act(known, true);
}

void App::OnConnectionClosing(Connection& connection, CloseReason reason) {
  const FailingMemory::Scope unarmed(false);
  Known& known = Of(connection);
  const HookScope scope(*this, known, "closing", static_cast<std::uint64_t>(reason));
  Check(!std::exchange(known.closed, true), "closing twice");
  Check(!connection.is_open(), "closing, and still open");
  timers_.OnEnded(connection.id());
  Check(known.errored || reason != CloseReason::kError, "closed by an error that was not reported");
  Check((known.error == ErrorKind::kBadFrame) == (reason == CloseReason::kFrameError),
        "closed by a bad frame that was not reported, or not closed by one that was");
  Check(connection.send_backlog() == 0, "closed, and there is a backlog");
  Check(!wants_writes || known.unwritten.empty() || known.unwritten.front() != 0,
        "an empty send was not completed, though all before it is with the system");
  if (reason == CloseReason::kPeerClosed) {
    Check(known.account->client_ended, "a peer that has not ended its stream has closed");
    Check(!known.kept_open, "closed for the end of the stream, and it was to stay open");
    Check(known.ended_here || known.account->delivered == known.account->client_sent,
          "the peer's stream has ended before all of it was delivered");
  }
  CheckTimeOut(known, reason);
  CheckTlsEnd(known, reason);
  // A silent one may be taking it; behind stages it would lack the end of the stream. One that
  // speaks no TLS may be taking the reason.
  Check(network_.left_to_take.erase(connection.remote_address().port) == 0 ||
            ((reason == CloseReason::kReceiveTimeout || reason == CloseReason::kMessageTimeout) &&
             !staged) ||
            known.error == ErrorKind::kTls,
        "closed in order, and the client has not taken all");
  ++closed_[static_cast<std::size_t>(reason)];
  std::erase(living_, &known);
  Act(known, true);
}

void App::OnHandshakeFailed(Connection& connection, TlsFailure failure, std::string_view why) {
  const FailingMemory::Scope unarmed(false);
  ++hooks_;
  Check(batches_ > 0, "a hook outside a batch");
  Check(known_.count(connection.id()) == 0, "a handshake has failed that was done");
  Check(with_failed_handshake_.insert(connection.id()).second, "a handshake has failed twice");
  Check(!connection.is_open(), "a handshake has failed, and the connection is open");
  Check(!why.empty(), "a handshake has failed, and nobody says why");
  network_.Note("handshake failed", connection.remote_address().port,
                static_cast<std::uint64_t>(failure));
  ++handshakes_failed_[static_cast<std::size_t>(failure)];
  if (!choices().Chance(0.1)) return;
  ++thrown_;
  throw std::runtime_error("by chance");
}

void App::OnHookError(Connection& connection, Hook hook, const std::exception_ptr&) {
  const FailingMemory::Scope unarmed(false);
  if (hook != kHookHandshakeFailed) Of(connection).ended_here = true;
  network_.Note("hook error", connection.remote_address().port, 0);
  if (choices().Chance(0.2)) {
    throw std::runtime_error("a hook error in the handler of hook errors");
  }
  connection.Abort(CloseReason::kHookError);
}

void App::OnCallbackError(Connection* connection, CallKind kind, const std::exception_ptr& error) {
  const FailingMemory::Scope unarmed(false);
  Check(batches_ > 0, "the error of a callback outside a batch");
  if (connection != nullptr) {
    OnHookError(*connection, kHookAll, error);
  } else {
    network_.Note("callback error", static_cast<std::uint64_t>(kind), 0);
    if (choices().Chance(0.2)) throw std::runtime_error("in the handler of a callback's error");
  }
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
    if (target.messages != nullptr && choices().Chance(0.3)) {
      ActOnMessages(target);
      continue;
    }
    Connection& connection = *target.connection;
    const std::uint64_t what = choices().Below(100);
    if (what < 62) {
      SendSome(target, choices().Chance(0.05)
                           ? 0
                           : choices().Size(choices().Chance(0.02) ? 300'000 : 4096));
    } else if (what < 70) {
      ActOnTimers(choices().Chance(0.2) ? nullptr : &target);
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
      Pause(target);
    } else if (what < 95) {
      network_.Note("resume", connection.remote_address().port, 0);
      Resume(target);
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
      if (what == 99) SetTimeout(target);
      yield();
    }
  }
}

void App::Pause(Known& known) {
  if (known.connection->is_open() && !known.paused) {
    known.pauses.emplace_back(network_.now(), TimePoint::max());
  }
  known.paused = true;
  known.connection->PauseReading();
}

void App::Resume(Known& known) {
  if (known.connection->is_open() && known.paused) known.pauses.back().second = network_.now();
  known.paused = false;
  known.connection->ResumeReading();
}

void App::SetTimeout(Known& known) {
  Connection& connection = *known.connection;
  const bool idle = choices().Chance(0.3);
  const std::uint64_t kind = choices().Below(4);
  std::optional<Duration> value;
  if (kind == 1) value = idle ? engine->options().idle_timeout : engine->options().receive_timeout;
  if (kind > 1) value = std::chrono::milliseconds(choices().Size(20'000));
  network_.Note(idle ? "idle timeout" : "receive timeout", connection.remote_address().port,
                value ? static_cast<std::uint64_t>(value->count()) : 0);
  if (connection.is_open()) {
    // One that has become shorter may be up already. While it was off, a pause may have ended.
    if (!idle) {
      const bool was_off = !known.receive_timeout;
      known.silent_from =
          network_.now() - (was_off ? Duration::zero() : value.value_or(Duration()));
    }
    (idle ? known.idle_timeout : known.receive_timeout) = value;
  }
  if (kind == 1) {
    idle ? connection.InheritIdleTimeout() : connection.InheritReceiveTimeout();
  } else {
    idle ? connection.SetIdleTimeout(value) : connection.SetReceiveTimeout(value);
  }
  Check(connection.idle_timeout() == known.idle_timeout &&
            connection.receive_timeout() == known.receive_timeout,
        "a timeout is not the one that was set");
}

void App::ActOnTimers(Known* known) try {
  if (choices().Chance(0.3)) {
    timers_.CancelOne();
    return;
  }
  if (known != nullptr) {
    Connection& connection = *known->connection;
    timers_.Schedule(
        connection.id(), known->closed, batches_, [this, known] { Called(known); },
        [&](CallKind kind, Duration time, Callback callback) {
          switch (kind) {
            case CallKind::kSoon:
              return connection.CallSoon(std::move(callback));
            case CallKind::kLater:
              return connection.CallLater(time, std::move(callback));
            case CallKind::kEvery:
              break;
          }
          return connection.CallEvery(time, std::move(callback));
        });
  } else {
    timers_.Schedule(
        0, false, batches_, [this] { Called(nullptr); },
        [&](CallKind kind, Duration time, Callback callback) {
          const bool every = kind == CallKind::kEvery;
          return engine->Schedule(kind, time, every ? time : Duration(), std::move(callback));
        });
  }
} catch (const std::bad_alloc&) {
  ++thrown_;
  throw;
}

void App::Called(Known* known) {
  if (known != nullptr) {
    Check(!known->closed && !known->errored && !known->released, "a callback behind the end");
    const HookScope scope(*this, *known, "callback", 0);
    Act(*known, true);
    return;
  }
  ++hooks_;
  Check(batches_ > 0, "a callback outside a batch");
  Check(!std::exchange(server_called_, true), "callbacks of the server overlap");
  const struct End {
    bool& called;
    ~End() { called = false; }
  } end{server_called_};
  network_.Note("callback of the server", 0, 0);
  yield();
  if (living_.empty() || !living_.front()->connection) return;
  Act(*living_[choices().Below(living_.size())], false);
}

void App::SendSome(Known& known, std::size_t size) {
  Connection& connection = *known.connection;
  LookForAFall(known);
  Account& account = *known.account;
  const Attempt attempt{size, network_.sent_now, known.closed};
  std::string bytes = account.down.At(account.accepted, size);
  SendResult result{};
  // Known before it can be out.
  known.unwritten.push_back(size);
  account.Accept(bytes);
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
    TakeBack(known, size);
    ++thrown_;
    throw;
  }
  if (result == SendResult::kBacklogFull) ++refused_;
  AfterSend(known, result, attempt);
}

void App::TakeBack(Known& known, std::size_t size) {
  known.unwritten.pop_back();
  known.account->TakeBack(size);
}

void App::AfterSend(Known& known, SendResult result, const Attempt& attempt) {
  Connection& connection = *known.connection;
  network_.Note(result == SendResult::kAccepted ? "send" : "send refused",
                connection.remote_address().port, attempt.size);
  if (result == SendResult::kBacklogFull) CheckRefusal(connection);
  if (result != SendResult::kAccepted) {
    if (result == SendResult::kBacklogFull) {
      NoteRise(known);
      // Below the low mark any byte that leaves is a fall, which shows only at times.
      known.may_have_fallen = true;
    }
    TakeBack(known, attempt.size);
    return;
  }
  if (Session::Of(connection).outbound().charge() > engine->options().write_high_water) {
    NoteRise(known);
  } else if (network_.sent_now != attempt.sent_now) {
    known.may_have_fallen = true;
  }
  Check(!attempt.was_closed, "a send was accepted after closing");
  CheckMemory(connection, attempt.extra);
}

void App::ActFromOutside() {
  if (!dead_.empty() && choices().Chance(0.1)) {
    // A dead handle answers and does nothing.
    const ConnectionPtr& dead = dead_[choices().Below(dead_.size())];
    Check(dead->Send("x", 1) == SendResult::kClosed, "a dead connection has taken a send");
    dead->Close();
    dead->Abort();
    dead->ResumeReading();
    const std::optional<Duration> before = dead->receive_timeout();
    dead->SetReceiveTimeout(std::chrono::hours(1));
    dead->InheritIdleTimeout();
    Check(dead->receive_timeout() == before, "a dead connection has taken a timeout");
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
    Resume(*known);
    if (known->kept_open) {
      known->ended_here = true;
      known->connection->Close();
    }
  }
}

void App::LetGo() {
  kept_.clear();
  while (!kept_messages_.empty()) KeepMessage({}, {});
  dead_.clear();
  timers_.LetGo();
  for (auto& [id, known] : known_) known.connection = ConnectionPtr();
}

}  // namespace iocp::sim
