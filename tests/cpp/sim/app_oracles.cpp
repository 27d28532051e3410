// The checks of a simulated run's handler beside what its hooks see: memory against the limits,
// ends against the timeouts, refusals against what the system takes.
#include <algorithm>
#include <chrono>
#include <utility>

#include "app.h"
#include "memory.h"
#include "session/session.h"
#include "sim_port.h"

namespace iocp::sim {
namespace {

// A backlog may grow to so many times its limit before the system has been asked to take it.
constexpr std::size_t kMostTimesLimit = 16;

}  // namespace

// Who spoke is not silent, and who takes bytes is not stuck, however long the hooks of others took.
void App::CheckTimeOut(const Known& known, CloseReason reason) {
  const auto found = network_.given_up.find(known.connection->remote_address().port);
  if (found == network_.given_up.end()) return;
  const Network::GivenUp& end = found->second;
  const Options& options = engine->options();
  switch (reason) {
    case CloseReason::kFirstDataTimeout:
      // Bytes that a stage has kept for itself are no data.
      Check(staged || (!end.speaks && !end.heard), "closed as silent, and it spoke");
      return;
    case CloseReason::kIdleTimeout:
      Check(known.idle_timeout && !end.speaks && end.at >= end.heard_at + *known.idle_timeout,
            "closed as idle, and it spoke");
      Check(!end.takes, "closed as idle, and it takes bytes");
      return;
    case CloseReason::kReceiveTimeout: {
      Duration silence = end.at - end.heard_at;
      for (const auto& [from, to] : known.pauses) {
        Check(to <= end.at, "closed by receive_timeout, and it was paused");
        if (to > end.heard_at) silence -= to - std::max(from, end.heard_at);
      }
      Check(known.receive_timeout && !end.speaks && silence >= *known.receive_timeout,
            "closed by receive_timeout, and it spoke");
      Check(!known.ended, "closed by receive_timeout, and it had ended its stream");
      return;
    }
    case CloseReason::kMessageTimeout:
      Check(known.messages != nullptr, "closed by message_timeout without a framing");
      if (known.messages) known.messages->CheckTimeOut(end, options.message_timeout);
      return;
    case CloseReason::kWriteTimeout:
      Check(!end.takes && end.at >= end.took_at + *options.write_timeout,
            "closed by write_timeout, and it takes bytes");
      return;
    default:
      return;
  }
}

void App::CheckTlsError(const Known& known) {
  Check(known.error != ErrorKind::kTls || known.account->tls_faulty,
        "what a client sends is called no TLS, and it is");
  Check(known.error != ErrorKind::kTruncated ||
            (tls != nullptr && (!known.account->tls_said_end || known.account->tls_faulty)),
        "a stream that has ended in order is called cut off");
}

// Oracle: who closes in order tells so, unless its time for that is over.
void App::CheckTlsEnd(const Known& known, CloseReason reason) {
  const auto port = known.connection->remote_address().port;
  if (tls == nullptr || !known.account->tls_cut || reason != CloseReason::kPeerClosed) return;
  Check(engine->stopping() || network_.reset_to_server.count(port) != 0 || known.kept_open ||
            network_.now() >= known.ended_at + engine->options().close_timeout,
        "a stream of TLS that has ended in order lacks its end");
}

void App::CheckStages() {
  const TimePoint now = network_.now();
  for (const SimPort* port : network_.ports) {
    port->ForEachAdopted([&](const Socket& socket, TimePoint adopted_at) {
      const auto& session = static_cast<const Session&>(socket);
      const StageStack* const stages = session.outbound().stages();
      if (stages == nullptr) return;
      Check(stages->ready() || session.phase() != Phase::kLingering,
            "a client that has not finished its handshake is waited for");
      if (session.phase() != Phase::kOpen) return;
      Check(!stages->postponed(), "what was received waits for a handshake, and nobody goes on");
      Check(stages->empty() || session.outbound().in_flight(),
            "what stages have made waits for the wire, and nobody sends it");
      if (tls == nullptr || stages->ready()) return;
      if (now < adopted_at + tls->handshake_timeout() + kLateness) return;
      // Each worker may judge it once without having looked at the system in time, and the clock
      // may jump before each of them does.
      LateHandshake& late = late_handshakes_[session.id()];
      if (now <= late.seen_at + kLateness) return;
      late.seen_at = now;
      Check(++late.times <= engine->worker_count() + 1,
            "a handshake takes longer than its timeout");
    });
  }
}

void App::CheckSilence(bool at_rest) {
  const Options& options = engine->options();
  const TimePoint now = network_.now();
  // At the end of a jump something else may have excused the silence for a moment, in the one turn
  // that there was: the next tick judges it.
  const TimePoint judged = std::min(now, std::exchange(looked_at_, now) + kLateness);
  for (Known* known : living_) {
    if (!known->connection) continue;
    const Session& session = Session::Of(*known->connection);
    const Outbound& outbound = session.outbound();
    // Below the low mark it is read from in any case.
    const bool held = known->paused || outbound.stages_full() ||
                      (options.flow_control && outbound.charge() > options.write_low_water);
    // Above the high mark its worker knows that it is not, once it has had a turn.
    const bool blocked = known->paused || (at_rest && options.flow_control &&
                                           outbound.charge() > options.write_high_water);
    const auto heard_at = network_.SilentSince(known->connection->remote_address().port);
    if (known->messages && session.phase() == Phase::kOpen) {
      known->messages->LookAtTime(
          {known->connection->bytes_received(), blocked, held || !at_rest, !heard_at},
          options.message_timeout);
    }
    // Nobody has to act before the workers have had their turns.
    const bool excused = held || !at_rest;
    if (std::exchange(known->was_excused, excused) || excused) known->silent_from = now;
    if (!at_rest || !known->receive_timeout || session.phase() != Phase::kOpen) continue;
    if (!heard_at) continue;
    const TimePoint since = std::max(*heard_at, known->silent_from);
    Check(judged <= since + *known->receive_timeout + kLateness,
          "silent for longer than receive_timeout, and not closed");
  }
}

// The charge rises with sends alone: before each of them it is as low as it was since the one
// before.
void App::LookForAFall(Known& known) {
  const std::size_t charge = Session::Of(*known.connection).outbound().charge();
  // A small limit may refuse a send when the backlog is below the low mark.
  if (charge <= engine->options().write_low_water && charge < known.charge_at_rise) {
    known.fallen = true;
  }
}

// A backlog that is too long for its producer: above the high mark, or at a limit.
void App::NoteRise(Known& known) {
  known.rose = true;
  known.fallen = false;
  known.charge_at_rise = Session::Of(*known.connection).outbound().charge();
}

void App::CheckNobodyWaits() {
  for (Known* known : living_) {
    if (!known->connection || !known->connection->is_open()) continue;
    LookForAFall(*known);
    Check(!wants_writable || !known->rose || !known->fallen,
          "a backlog has fallen, and it was not reported");
  }
}

// Who takes whatever is offered is never refused. A worker offers what waits at the end of its
// turn, and in a hook when the backlog is at the limit; other threads can only look at what it has
// seen.
void App::CheckRefusal(Connection& connection) {
  Session& session = Session::Of(connection);
  const Outbound& outbound = session.outbound();
  const Options& options = engine->options();
  if (options.max_pending_sends || staged || outbound.in_flight()) return;
  // All behind a send that was under way at the end of a turn counts as refused there.
  if (!network_.settings.sends_now) return;
  if (outbound.charge() >= kMostTimesLimit * options.send_backlog_limit) return;
  if (outbound.charge() < outbound.offer_from()) return;  // it was offered in this turn
  const Owner* const owner = Owner::Current();
  if (owner == nullptr || !session.ownership().IsOf(*owner) || session.phase() != Phase::kOpen) {
    Check(network_.refused.count(connection.remote_address().port) != 0,
          "a send is refused, and the system was never asked to take more");
    return;
  }
  const LinkPtr link = network_.LinkOf(session.handle);
  Check(link == nullptr || network_.broken_ports != 0 || network_.ResetArrived(*link, true) ||
            (link->client_open && link->down.Space() == 0),
        "a send is refused, and the system would take it");
}

// A queue takes memory up to a multiple of the limit, and the send that was accepted just below it.
// A part of the one at the front may be out; the heap rounds up. Sends that wait for their
// OnWriteCompleted take memory too.
void App::CheckMemory(Connection& connection, std::size_t extra) {
  Session& session = Session::Of(connection);
  Inbox& inbox = session.inbox();
  const MutexLock lock(inbox.mutex());
  std::size_t taken = 0;
  std::size_t first = 0;
  std::size_t last = 0;
  for (const SendQueue* queue :
       {&session.outbound().ended(), &session.outbound().queue(), &inbox.sends()}) {
    for (const SendItem* item = queue->first(); item != nullptr; item = item->next) {
      const bool copied = item->data == reinterpret_cast<const char*>(item + 1);
      last = AllocatedBytes(item) + (copied ? 0 : item->size);
      if (item == session.outbound().queue().first()) first = last;
      taken += last;
    }
  }
  const std::size_t most =
      kMostTimesLimit * engine->options().send_backlog_limit + first + last + extra;
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

std::uint64_t App::SumOfBacklogs() const {
  std::uint64_t sum = 0;
  for (const auto& [id, known] : known_) {
    if (known.connection) sum += known.connection->send_backlog();
  }
  return sum;
}

bool App::AllReported() const {
  return living_.empty() && loans_ == 0 && batches_ == 0 && timers_.AllReturned();
}

}  // namespace iocp::sim
