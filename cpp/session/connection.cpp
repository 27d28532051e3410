// The public handle: what Connection does, as calls of its session.
#include "iocp/connection.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "session/session.h"
#include "session/session_pool.h"

namespace iocp {
namespace {

// Passes the result of a send on, and counts a refused one.
SendResult Counted(Session& session, SendResult result) {
  if (result == SendResult::kBacklogFull) {
    session.shared_counters().sends_refused.fetch_add(1, std::memory_order_relaxed);
  }
  return result;
}

}  // namespace

SendResult Connection::Send(const void* data, std::size_t size) {
  const std::string_view piece(static_cast<const char*>(data), size);
  return Send(&piece, 1);
}

SendResult Connection::Send(const std::string_view* pieces, std::size_t count) {
  Session& session = Session::Of(*this);
  return Counted(session, session.EnqueueCopy(pieces, count));
}

SendResult Connection::Send(const SharedBytes& bytes) {
  SendMemory* const memory = Owner::CurrentSendMemory();
  SendItem* item = SendItem::Share(bytes, true, memory);
  if (item == nullptr) throw std::bad_alloc();
  Session& session = Session::Of(*this);
  const SendResult result = Counted(session, session.Enqueue(item));
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
  Session& session = Session::Of(*this);
  const SendResult result = Counted(session, session.Enqueue(item));
  if (result == SendResult::kAccepted) {
    bytes = Buffer();
  } else {
    SendItem::Destroy(item, memory);
  }
  return result;
}

SendResult Connection::SendMessages(std::span<const SharedBytes> messages) {
  Session& session = Session::Of(*this);
  return Counted(session, session.EnqueueMessages(messages.data(), messages.size()));
}

SendResult Connection::SendAsMessage(std::string_view message) {
  const SharedBytes copied{message.data(), message.size()};
  return SendMessages({&copied, 1});
}

void Connection::SetFraming(FramingPtr framing) {
  Session::Of(*this).SwitchFraming(std::move(framing));
}
FramingPtr Connection::framing() const { return Session::Of(*this).CurrentFraming(); }
FrameFault Connection::frame_fault() const {
  const MessageCutter* const cutter = Session::Of(*this).cutter();
  return cutter == nullptr ? FrameFault{} : cutter->fault();
}

std::optional<TlsInfo> Connection::tls() const {
  return const_cast<Session&>(Session::Of(*this)).tls_info();
}
std::string Connection::tls_fault() const { return Session::Of(*this).DescribeTlsFault(); }
void Connection::StartTls(const Tls& tls) { Session::Of(*this).BeginTls(tls); }

void Connection::Close() { Session::Of(*this).RequestClose(CloseReason::kLocalClose); }
void Connection::Abort() { Abort(CloseReason::kLocalAbort); }
void Connection::Abort(CloseReason reason) { Session::Of(*this).RequestAbort(reason); }
void Connection::PauseReading() { Session::Of(*this).SetUserPaused(true); }
void Connection::ResumeReading() { Session::Of(*this).SetUserPaused(false); }

TimerHandle Connection::CallSoon(Callback callback) {
  return Session::Of(*this).Schedule(CallKind::kSoon, {}, {}, std::move(callback));
}
TimerHandle Connection::CallLater(Duration delay, Callback callback) {
  return Session::Of(*this).Schedule(CallKind::kLater, delay, {}, std::move(callback));
}
TimerHandle Connection::CallEvery(Duration interval, Callback callback) {
  interval = std::max(interval, Duration(1));
  return Session::Of(*this).Schedule(CallKind::kEvery, interval, interval, std::move(callback));
}

namespace {

void Refuse(const std::string& why) {
  if (!why.empty()) throw std::invalid_argument(why);
}

}  // namespace

void Connection::SetIdleTimeout(std::optional<Duration> timeout) {
  Refuse(RefuseTimeout("idle_timeout", timeout));
  Session& session = Session::Of(*this);
  session.SetTimeLimit(session.timeouts().idle(), timeout);
}
void Connection::SetReceiveTimeout(std::optional<Duration> timeout) {
  Refuse(RefuseTimeout("receive_timeout", timeout));
  Session& session = Session::Of(*this);
  session.SetTimeLimit(session.timeouts().receive(), timeout);
}
void Connection::InheritIdleTimeout() {
  Session& session = Session::Of(*this);
  session.InheritTimeLimit(session.timeouts().idle(), &Options::idle_timeout);
}
void Connection::InheritReceiveTimeout() {
  Session& session = Session::Of(*this);
  session.InheritTimeLimit(session.timeouts().receive(), &Options::receive_timeout);
}
std::optional<Duration> Connection::idle_timeout() const {
  return Session::Of(*this).timeouts().idle().value();
}
std::optional<Duration> Connection::receive_timeout() const {
  return Session::Of(*this).timeouts().receive().value();
}

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
