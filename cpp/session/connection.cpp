// The public handle: what Connection does, as calls of its session.
#include "iocp/connection.h"

#include <new>
#include <string_view>

#include "session/session.h"
#include "session/session_pool.h"

namespace iocp {

SendResult Connection::Send(const void* data, std::size_t size) {
  const std::string_view piece(static_cast<const char*>(data), size);
  return Send(&piece, 1);
}

SendResult Connection::Send(const std::string_view* pieces, std::size_t count) {
  // Asked first, so that a dead connection costs no copy.
  if (!is_open()) return SendResult::kClosed;
  SendMemory* const memory = Owner::CurrentSendMemory();
  SendItem* item = SendItem::Copy(pieces, count, memory);
  if (item == nullptr) throw std::bad_alloc();
  const SendResult result = Session::Of(*this).Enqueue(item);
  if (result != SendResult::kAccepted) SendItem::Destroy(item, memory);
  return result;
}

SendResult Connection::Send(const SharedBytes& bytes) {
  SendMemory* const memory = Owner::CurrentSendMemory();
  SendItem* item = SendItem::Share(bytes, true, memory);
  if (item == nullptr) throw std::bad_alloc();
  const SendResult result = Session::Of(*this).Enqueue(item);
  if (result != SendResult::kAccepted) {
    item->release = nullptr;  // the bytes stay the caller's
    SendItem::Destroy(item, memory);
  }
  return result;
}

SendResult Connection::Send(Buffer& bytes) {
  // A slow reader's backlog may keep this many times its bytes in blocks, not more.
  constexpr std::size_t kMostKept = 4;
  Block* const block = bytes.block_;
  if (block == nullptr || bytes.size() < block->capacity() / kMostKept) {
    const SendResult result = Send(bytes.data(), bytes.size());
    if (result == SendResult::kAccepted) bytes = Buffer();
    return result;
  }
  if (!is_open()) return SendResult::kClosed;
  SharedBytes shared{bytes.data(), bytes.size(), nullptr, block};
  shared.release = [](void* owner) { static_cast<Block*>(owner)->DropReference(); };
  SendMemory* const memory = Owner::CurrentSendMemory();
  SendItem* item = SendItem::Share(shared, false, memory);
  if (item == nullptr) throw std::bad_alloc();
  // A reference of its own: once it is queued, it may be out and gone at any time.
  block->AddReference();
  const SendResult result = Session::Of(*this).Enqueue(item);
  if (result == SendResult::kAccepted) {
    bytes = Buffer();
  } else {
    SendItem::Destroy(item, memory);
  }
  return result;
}

void Connection::Close() { Session::Of(*this).RequestClose(CloseReason::kLocalClose); }
void Connection::Abort() { Abort(CloseReason::kLocalAbort); }
void Connection::Abort(CloseReason reason) { Session::Of(*this).RequestAbort(reason); }
void Connection::PauseReading() { Session::Of(*this).SetUserPaused(true); }
void Connection::ResumeReading() { Session::Of(*this).SetUserPaused(false); }
bool Connection::AttachUserData(void* data) {
  Session& session = Session::Of(*this);
  const MutexLock lock(session.inbox_.mutex());
  if (session.inbox_.finished()) return false;
  user_data = data;
  return true;
}

bool Connection::is_open() const { return Session::Of(*this).inbox().open(); }
std::size_t Connection::send_backlog() const {
  return Session::Of(*this).outbound().BacklogAtOneMoment();
}
std::uint64_t Connection::bytes_received() const {
  return Session::Of(*this).inbound().bytes_received();
}
std::uint64_t Connection::bytes_sent() const { return Session::Of(*this).outbound().bytes_sent(); }

void Connection::AddReference() const {
  Session::Of(*this).references_.fetch_add(1, std::memory_order_relaxed);
}

void Connection::DropReference() const {
  const Session& session = Session::Of(*this);
  if (session.references_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  // The last reference: nobody else can see the object any more.
  session.pool_->Return(const_cast<Session*>(&session));
}

}  // namespace iocp
