// A session and its stages: what it gives them, when a handshake has to wait, and how TLS begins
// and ends.
#include <new>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include "session/arrival_sink.h"
#include "session/session.h"
#include "stage/tls/tls_report.h"
#include "stage/tls/tls_stage.h"

namespace iocp {

// ---- The owner, outside of batches.

void Session::BeginStages(Owner& owner) {
  StageStack* const stages = outbound_.stages();
  if (stages == nullptr) return;
  ArrivalSink sink(*this, owner);
  try {
    sink.DeliverError(stages->Begin(sink));
  } catch (const std::bad_alloc&) {
    RunOutOfMemory(owner);
  }
}

// Now, before a batch of hooks begins.
void Session::ReceiveThroughStages(Owner& owner, Received&& received) {
  if (received.end.kind == ErrorKind::kCancelled) return;
  if (inbound_.wire_ended()) return;  // receives behind the one that met the end
  if (received.end) inbound_.EndWire(received.end);
  StageStack& stages = *outbound_.stages();
  const bool waits = stages.postponed();
  // A step of a handshake takes long, and those who are connected must not wait for it.
  if (!stages.ready() && !inbound_.wire_broke() && (waits || !owner.TakeHandshakeStep())) {
    stages.Postpone(std::move(received));
    if (!waits) owner.PostponeHandshake(*this);
    return;
  }
  PassThroughStages(owner, std::move(received));
}

void Session::ContinueHandshake(Owner& owner) {
  StageStack* const stages = outbound_.stages();
  if (finished() || stages == nullptr) return;
  try {
    for (Received& received : stages->TakePostponed()) {
      PassThroughStages(owner, std::move(received));
    }
  } catch (const std::bad_alloc&) {
    RunOutOfMemory(owner);
  }
}

void Session::PassThroughStages(Owner& owner, Received&& received) {
  StageStack& stages = *outbound_.stages();
  const bool in_order = !received.end || received.end.kind == ErrorKind::kEndOfStream;
  // Once our stream has ended a stage has nothing more to say. Behind Close nobody listens to the
  // peer, who may have ended its stream in any way, and still reads.
  const bool unheard = closing_.phase() == Phase::kFlushing && received.end && stages.ready();
  if (!in_order || unheard || closing_.phase() > Phase::kFlushing) {
    owner.arrivals().emplace_back(this, std::move(received.buffer), received.end);
    return;
  }
  ArrivalSink sink(*this, owner);
  const Error error =
      received.end ? stages.EndReceive(sink) : stages.Receive(std::move(received.buffer), sink);
  NoteStages(owner, error);
  sink.DeliverError(error);
}

void Session::SendThroughStages(Owner& owner) {
  StageStack& stages = *outbound_.stages();
  ArrivalSink sink(*this, owner);
  const Error error = closing_.phase() == Phase::kFlushing ? stages.EndSend(outbound_.queue(), sink)
                                                           : stages.Send(outbound_.queue(), sink);
  NoteStages(owner, {});  // a stage may pass on what it has kept, and make one above it ready
  outbound_.CountEmpty(&owner.send_memory());
  try {
    sink.DeliverError(error);
  } catch (const std::bad_alloc&) {
    RunOutOfMemory(owner);
  }
}

// Acts on what a call of the stages has changed: they may be ready now, or have failed.
void Session::NoteStages(Owner& owner, const Error& error) {
  StageStack& stages = *outbound_.stages();
  if (stages.TakeReady()) {
    timeouts_.NoteReady(owner.now());
    if (const TlsReport* const report = stages.tls()) {
      owner.counters().tls_handshakes.Add(1);
      if (report->info.resumed) owner.counters().tls_resumed.Add(1);
    }
  }
  if (error) OfferLastWords(owner);
}

// Sends the bytes that the stages have put down before they failed, such as an alert that tells the
// peer why.
void Session::OfferLastWords(Owner& owner) {
  if (outbound_.in_flight()) return;
  if (closing_.phase() != Phase::kOpen && closing_.phase() != Phase::kFlushing) return;
  Piece pieces[kMaxPieces];
  const std::size_t count = outbound_.Gather(pieces);
  if (count == 0) return;
  if (port_->sends_now()) {
    WriteNow(owner, pieces, count);
  } else {
    BeginSend(owner, pieces, count);
  }
}

namespace {

std::string_view DescribeHandshakeFailure(TlsFailure failure, const TlsReport& report) {
  switch (failure) {
    case TlsFailure::kTimeout:
      return "it was not done in time";
    case TlsFailure::kClosed:
      return "this side closed the connection";
    case TlsFailure::kResources:
      return "memory ran out";
    default:
      return report.fault.empty() ? std::string_view("the peer left") : report.fault;
  }
}

}  // namespace

// The connection has ended. Counts and reports its handshake if that was not done.
void Session::NoteHandshakeFailure(Owner& owner) {
  const StageStack* const stages = outbound_.stages();
  const TlsReport* const report = stages == nullptr ? nullptr : stages->tls();
  if (report == nullptr || report->done) return;
  TlsFailure failure = TlsFailure::kClosed;
  switch (closing_.error().kind) {
    case ErrorKind::kNone:
      if (closing_.reason() == CloseReason::kPeerClosed) failure = TlsFailure::kPeerLeft;
      if (Timeouts::IsTimeout(closing_.reason())) failure = TlsFailure::kTimeout;
      break;
    case ErrorKind::kTls:
      failure = report->failure;
      break;
    case ErrorKind::kOutOfResources:
      failure = TlsFailure::kResources;
      break;
    default:
      failure = TlsFailure::kPeerLeft;
  }
  owner.counters().tls_failures[static_cast<std::size_t>(failure)].Add(1);
  owner.hooks().Run(*this, kHookHandshakeFailed, [&](Handler& handler) {
    handler.OnHandshakeFailed(*this, failure, DescribeHandshakeFailure(failure, *report));
  });
}

// ---- In hooks of the connection.

// True when the peer has sent bytes that no hook was given, as far as is known. Bytes that the
// system still has do not count: they will come through the stage.
bool Session::HasUndelivered(Owner& owner) const {
  const Owner::Delivering& delivering = owner.delivering();
  const bool delivers = delivering.session == this;
  if (inbound_.deferred_bytes() != 0 || (delivers && delivering.rest != 0)) return true;
  if (!delivers && cutter_ != nullptr && cutter_->inside()) return true;
  for (const Arrival& arrival : owner.arrivals()) {
    if (arrival.session == this && arrival.buffer.size() != 0 &&
        &arrival.buffer != delivering.buffer) {
      return true;
    }
  }
  return false;
}

void Session::BeginTls(const Tls& tls) {
  Owner* const owner = Owner::Current();
  if (owner == nullptr || !ownership_.IsOf(*owner)) {
    throw std::logic_error("StartTls can be called in hooks and callbacks of the connection only");
  }
  if (!tls) throw std::logic_error("StartTls needs a Tls");
  if (!KnowsWhomToTrust(tls)) {
    throw TlsError("server_name must be given: there is no name to check the certificate with");
  }
  if (outbound_.stages() != nullptr) throw std::logic_error("the connection has TLS already");
  if (closing_.phase() != Phase::kOpen || !inbox_.open()) return;
  if (inbound_.ended() || HasUndelivered(*owner)) {
    throw std::runtime_error(
        "the peer has sent something behind what the hooks were given: it was not sent in TLS, and "
        "must not be taken for that");
  }
  std::vector<std::unique_ptr<Stage>> made;
  made.push_back(MakeTlsStage(tls, owner->shard_index()));
  auto stages = std::make_unique<StageStack>(std::move(made), owner->now() + HandshakeTimeout(tls));
  {
    const MutexLock lock(inbox_.mutex());
    outbound_.queue().Append(inbox_.sends());
  }
  stages->SendPlain(outbound_.queue(), outbound_.bytes_sent());
  const MutexLock lock(inbox_.mutex());
  outbound_.set_stages(std::move(stages));
  Wake();
}

// ---- Any thread.

std::optional<TlsInfo> Session::tls_info() {
  const TlsReport* report = nullptr;
  {
    const MutexLock lock(inbox_.mutex());
    if (outbound_.stages() != nullptr) report = outbound_.stages()->tls();
  }
  // The report lives as long as the session.
  if (report == nullptr || !report->done.load(std::memory_order_acquire)) return std::nullopt;
  return report->info;
}

std::string Session::DescribeTlsFault() const {
  const StageStack* const stages = outbound_.stages();
  const TlsReport* const report = stages == nullptr ? nullptr : stages->tls();
  return report == nullptr ? std::string() : report->fault;
}

}  // namespace iocp
