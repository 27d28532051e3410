// How a session sends: what it accepts, what it gives to the system, and what follows from that.
#include <algorithm>
#include <new>

#include "session/session.h"

namespace iocp {
namespace {

// The bytes that one connection may write in one turn, so that it does not starve the others.
constexpr std::size_t kMostPerTurn = 4 * 1024 * 1024;
// A backlog at the limit may grow by a part of it before a hook offers it to the system again: one
// system call in vain costs less than the copies since the last.
constexpr std::size_t kOffersPerLimit = 16;

std::size_t SizeOf(const Piece* pieces, std::size_t count) {
  std::size_t size = 0;
  for (std::size_t i = 0; i < count; ++i) size += pieces[i].size;
  return size;
}

}  // namespace

// ---- Any thread: a send is accepted, or not.

template <typename Accept>
inline SendResult Session::AdmitUnderLock(Accept accept) {
  const bool owned = Wake() != nullptr;
  // A send from a hook needs no detour; one that follows another thread's waits behind it.
  if (owned && inbox_.sends().empty()) {
    accept(outbound_.queue());
  } else {
    accept(inbox_.sends());
    inbox_.NoteRequest();
  }
  return SendResult::kAccepted;
}

template <typename Accept>
inline SendResult Session::Admit(Accept accept) {
  {
    const MutexLock lock(inbox_.mutex());
    if (!inbox_.open()) return SendResult::kClosed;
    if (outbound_.HasRoom(*options_)) return AdmitUnderLock(accept);
  }
  OfferInHook();
  const MutexLock lock(inbox_.mutex());
  if (!inbox_.open()) return SendResult::kClosed;
  if (outbound_.Full(*options_)) {
    outbound_.writable().NoteRefusal();
    return SendResult::kBacklogFull;
  }
  return AdmitUnderLock(accept);
}

SendResult Session::EnqueueCopy(const std::string_view* pieces, std::size_t count) {
  SendMemory* const memory = Owner::CurrentSendMemory();
  const std::size_t size = SendItem::TotalSize(pieces, count);
  if (size <= Outbound::kMostPacked) {
    return Admit(
        [&](SendQueue& queue) { outbound_.AcceptCopy(queue, pieces, count, size, memory); });
  }
  // Copied before the lock is taken, which must not be held for long. A dead connection costs no
  // copy.
  if (!inbox_.open()) return SendResult::kClosed;
  SendItem* const item = SendItem::Copy(pieces, count, size, size, memory);
  if (item == nullptr) throw std::bad_alloc();
  const SendResult result = Enqueue(item);
  if (result != SendResult::kAccepted) SendItem::Destroy(item, memory);
  return result;
}

SendResult Session::EnqueueAll(SendQueue& items) {
  return Admit([&](SendQueue& queue) {
    while (SendItem* const item = items.Pop()) outbound_.Accept(queue, item);
  });
}

SendResult Session::Enqueue(SendItem* item) {
  bool ignored = false;
  const SendResult result = Admit([&](SendQueue& queue) {
    ignored = outbound_.Ignores(*item);
    if (!ignored) outbound_.Accept(queue, item);
  });
  if (ignored) SendItem::Destroy(item, Owner::CurrentSendMemory());
  return result;
}

// The backlog is at its limit. In a hook the worker that owns the session lets the system take what
// waits, as at the end of a turn. What the system leaves does not count as refused before that end:
// no peer can read as fast as a hook sends.
void Session::OfferInHook() {
  Owner* owner = nullptr;
  {
    const MutexLock lock(inbox_.mutex());
    if (inbox_.open()) owner = Wake();
    // The sends of other threads are before those that follow in this hook.
    if (owner != nullptr) outbound_.queue().Append(inbox_.sends());
  }
  if (owner == nullptr || outbound_.in_flight() || outbound_.stages() != nullptr) return;
  if (closing_.phase() != Phase::kOpen || !port_->sends_now()) return;
  if (outbound_.charge() < outbound_.offer_from()) return;
  Piece pieces[kMaxPieces];
  bool takes = true;
  while (takes && !outbound_.HasRoom(*options_)) {
    const std::size_t count = outbound_.Gather(pieces);
    takes = count != 0 && WriteNow(*owner, pieces, count) == SizeOf(pieces, count);
  }
  const std::size_t step = options_->send_backlog_limit / kOffersPerLimit;
  outbound_.set_offer_from(takes ? 0 : outbound_.charge() + step);
  if (outbound_.reports_writes()) return;  // they are reported in order, later
  while (SendItem* const item = outbound_.ended().Pop()) {
    outbound_.CountReported(*item);
    SendItem::Destroy(item, &owner->send_memory());
  }
}

// ---- The end of a turn.

// Writes until the socket would block. Most turns give one send to the port, and no more.
void Session::Flush(Owner& owner) {
  if (outbound_.in_flight()) {
    outbound_.NoteRefused();
    return;
  }
  if (closing_.phase() != Phase::kOpen && closing_.phase() != Phase::kFlushing) return;
  if (outbound_.stages() == nullptr && outbound_.queue().empty()) return;
  Piece pieces[kMaxPieces];
  std::size_t allowance = kMostPerTurn;
  outbound_.set_offer_from(0);
  for (;;) {
    if (outbound_.stages() != nullptr) SendThroughStages(owner);
    const std::size_t count = outbound_.Gather(pieces);
    if (count == 0) {
      // There are empty sends at most, which wait for nothing.
      outbound_.CountEmpty(&owner.send_memory());
      return;
    }
    const std::size_t waiting = outbound_.charge();
    const bool one_send = count < kMaxPieces && waiting <= outbound_.most_gathered() &&
                          waiting < options_->send_backlog_limit;
    if (one_send || allowance == 0 || !port_->sends_now()) {
      BeginSend(owner, pieces, count);
      return;
    }
    const std::size_t taken = WriteNow(owner, pieces, count);
    if (taken < SizeOf(pieces, count)) {
      outbound_.NoteRefused();
      allowance = 0;
    }
    allowance -= std::min(allowance, taken);
  }
}

void Session::BeginSend(Owner& owner, const Piece* pieces, std::size_t count) {
  outbound_.BeginSend(SizeOf(pieces, count), owner.now());
  port_->Send(*this, pieces, count);
}

// Returns how many bytes the system took: fewer than were offered when it takes no more for now.
std::size_t Session::WriteNow(Owner& owner, const Piece* pieces, std::size_t count) {
  const std::size_t taken = port_->SendNow(*this, pieces, count);
  if (taken != 0) CountTaken(owner, taken);
  return taken;
}

void Session::CountTaken(Owner& owner, std::size_t bytes) {
  owner.counters().writes.Add(1);
  owner.counters().bytes_sent.Add(bytes);
  timeouts_.NoteSent(owner.now());
  outbound_.CountSent(bytes, &owner.send_memory());
}

// ---- Completions.

void Session::ApplySend(Owner& owner, std::size_t bytes, const Error& error) {
  outbound_.EndSend(bytes);
  if (error) {
    if (error.kind == ErrorKind::kOutOfResources) {
      RunOutOfMemory(owner, error);
    } else if (error.kind != ErrorKind::kCancelled) {
      Fail(owner, error);
    }
    return;
  }
  CountTaken(owner, bytes);
}

bool Session::settled() const {
  return closing_.phase() == Phase::kOpen && outbound_.settled() && !inbound_.has_deferred() &&
         !inbound_.port_paused() && !inbound_.ended() && !timeouts_.waits_for_reading();
}

// ---- Hooks.

void Session::NotifyCompletedSends(Owner& owner) {
  if (outbound_.ended().empty()) return;
  HookBatch& hooks = owner.hooks();
  // Those that end while these hooks run wait for the next turn: they could be more, for ever.
  SendQueue ended;
  ended.Append(outbound_.ended());
  while (SendItem* item = ended.Pop()) {
    // First, so that the next send finds the room of this one, in its hook and on other threads.
    outbound_.CountReported(*item);
    if (!item->dropped && hooks.wants(kHookWrite)) {
      hooks.Enter();
      CallTimers(owner);
      hooks.Run(*this, kHookWrite,
                [&](Handler& handler) { handler.OnWriteCompleted(*this, item->size); });
    }
    if (item->release_in_batch) hooks.Enter();
    SendItem::Destroy(item, &owner.send_memory());
  }
}

// ---- Closing.

// A stream that lacks what was accepted does not end in order: the peer would take it for whole.
void Session::DropSends(Owner& owner) {
  if (outbound_.Drop(&owner.send_memory())) closing_.Reset();
}

}  // namespace iocp
