// How a session sends: what it accepts, what it gives to the system, and what follows from that.
#include <new>

#include "session/arrival_sink.h"
#include "session/session.h"

namespace iocp {

SendResult Session::Enqueue(SendItem* item) {
  {
    const MutexLock lock(inbox_.mutex());
    if (!inbox_.open()) return SendResult::kClosed;
    if (outbound_.Full(*options_)) return SendResult::kBacklogFull;
    const bool owned = Wake() != nullptr;
    // A send from a hook needs no detour; one that follows another thread's waits behind it.
    const bool direct = owned && inbox_.sends().empty();
    if (outbound_.Accept(direct ? outbound_.queue() : inbox_.sends(), item, *options_)) {
      if (!direct) inbox_.NoteRequest();
      return SendResult::kAccepted;
    }
  }
  SendItem::Destroy(item, Owner::CurrentSendMemory());
  return SendResult::kAccepted;
}

// ---- The end of a turn.

void Session::Flush(Owner& owner) {
  if (outbound_.in_flight()) return;
  if (closing_.phase() != Phase::kOpen && closing_.phase() != Phase::kFlushing) return;
  if (outbound_.stages() != nullptr) {
    SendThroughStages(owner);
  } else if (outbound_.queue().empty()) {
    return;
  }
  Piece pieces[kMaxPieces];
  const std::size_t count = outbound_.BeginSend(pieces, owner.now());
  if (count == 0) {
    // There are empty sends at most, which wait for nothing.
    outbound_.CountEmpty(&owner.send_memory());
    return;
  }
  port_->Send(*this, pieces, count);
}

void Session::SendThroughStages(Owner& owner) {
  StageStack& stages = *outbound_.stages();
  ArrivalSink sink(*this, owner);
  const Error error = closing_.phase() == Phase::kFlushing ? stages.EndSend(outbound_.queue(), sink)
                                                           : stages.Send(outbound_.queue(), sink);
  outbound_.CountEmpty(&owner.send_memory());
  try {
    sink.DeliverError(error);
  } catch (const std::bad_alloc&) {
    RunOutOfMemory(owner);
  }
}

// ---- Completions.

void Session::ApplySend(Owner& owner, std::size_t bytes, const Error& error) {
  outbound_.EndSend();
  if (error) {
    if (error.kind == ErrorKind::kOutOfResources) {
      RunOutOfMemory(owner, error);
    } else if (error.kind != ErrorKind::kCancelled) {
      Fail(owner, error);
    }
    return;
  }
  owner.counters().writes.Add(1);
  owner.counters().bytes_sent.Add(bytes);
  timeouts_.NoteActivity(owner.now());
  outbound_.CountSent(bytes, &owner.send_memory());
}

bool Session::settled() const {
  return closing_.phase() == Phase::kOpen && outbound_.settled() && !inbound_.has_deferred() &&
         !inbound_.port_paused() && !inbound_.ended();
}

// ---- Hooks.

void Session::NotifyCompletedSends(Owner& owner) {
  HookBatch& hooks = owner.hooks();
  while (SendItem* item = outbound_.ended().Pop()) {
    if (!item->dropped) {
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
