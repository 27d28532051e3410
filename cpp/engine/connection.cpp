#include "engine/connection.h"

#include <new>

#include "engine/shard.h"
#include "engine/worker.h"

namespace iocp {

// ---- The public handle.

SendResult Connection::Send(const void* data, std::size_t size) {
  const std::string_view piece(static_cast<const char*>(data), size);
  return Send(&piece, 1);
}

SendResult Connection::Send(const std::string_view* pieces, std::size_t count) {
  // Asked first, so that a dead connection costs no copy.
  if (!is_open()) return SendResult::kClosed;
  SendMemory* const memory = Worker::CurrentSendMemory();
  SendItem* item = SendItem::Copy(pieces, count, memory);
  if (item == nullptr) throw std::bad_alloc();
  const SendResult result = Context::Of(*this).Enqueue(item);
  if (result != SendResult::kAccepted) SendItem::Destroy(item, memory);
  return result;
}

SendResult Connection::Send(const SharedBytes& bytes) {
  SendMemory* const memory = Worker::CurrentSendMemory();
  SendItem* item = SendItem::Share(bytes, true, memory);
  if (item == nullptr) throw std::bad_alloc();
  const SendResult result = Context::Of(*this).Enqueue(item);
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
  SendMemory* const memory = Worker::CurrentSendMemory();
  SendItem* item = SendItem::Share(shared, false, memory);
  if (item == nullptr) throw std::bad_alloc();
  // A reference of its own: once it is queued, it may be out and gone at any time.
  block->AddReference();
  const SendResult result = Context::Of(*this).Enqueue(item);
  if (result == SendResult::kAccepted) {
    bytes = Buffer();
  } else {
    SendItem::Destroy(item, memory);
  }
  return result;
}

void Connection::Close() { Context::Of(*this).RequestClose(CloseReason::kLocalClose); }
void Connection::Abort() { Abort(CloseReason::kLocalAbort); }
void Connection::Abort(CloseReason reason) { Context::Of(*this).RequestAbort(reason); }
void Connection::PauseReading() { Context::Of(*this).SetUserPause(true); }
void Connection::ResumeReading() { Context::Of(*this).SetUserPause(false); }

bool Connection::AttachUserData(void* data) {
  Context& context = Context::Of(*this);
  const MutexLock lock(context.mutex);
  if (context.finished) return false;
  user_data = data;
  return true;
}

bool Connection::is_open() const {
  return static_cast<const Context*>(this)->open.load(std::memory_order_acquire);
}
std::size_t Connection::send_backlog() const {
  const auto* context = static_cast<const Context*>(this);
  for (;;) {
    const std::uint64_t ended = context->ended_bytes.value();
    const std::size_t backlog = context->backlog();
    // Nothing has ended in between, so that is what it was at one moment. Else it could be more
    // than it ever was, by all that came and went while this thread did not run.
    if (context->ended_bytes.value() == ended) return backlog;
  }
}
std::uint64_t Connection::bytes_received() const {
  return static_cast<const Context*>(this)->received_bytes.value();
}
std::uint64_t Connection::bytes_sent() const {
  return static_cast<const Context*>(this)->sent_bytes.value();
}

void Connection::AddReference() const {
  static_cast<const Context*>(this)->references.fetch_add(1, std::memory_order_relaxed);
}

void Connection::DropReference() const {
  const auto* context = static_cast<const Context*>(this);
  if (context->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  // The last reference: nobody else can see the object any more.
  context->pool_->Return(const_cast<Context*>(context));
}

// ---- The context.

void Context::Start(Shard& shard_of, const Options& limits, unsigned wanted_hooks, TimePoint now,
                    const Address& local, const Address& remote) {
  static std::atomic<std::uint64_t> last_id{0};
  id_ = last_id.fetch_add(1, std::memory_order_relaxed) + 1;
  local_ = local;
  remote_ = remote;
  shard = &shard_of;
  options = &limits;
  reports_writes = (wanted_hooks & kHookWrite) != 0;
  accepted_at = now;
  active_at = now;
}

SendResult Context::Enqueue(SendItem* item) {
  {
    const MutexLock lock(mutex);
    if (!open.load(std::memory_order_relaxed)) return SendResult::kClosed;
    if (charge() >= options->send_backlog_limit ||
        (options->max_pending_sends &&
         pending_sends() >= static_cast<std::uint64_t>(*options->max_pending_sends))) {
      return SendResult::kBacklogFull;
    }
    const Worker* const worker = CallWorker();
    // A send from a hook needs no detour; one that follows another thread's waits behind it.
    const bool direct = worker != nullptr && incoming.empty();
    SendQueue& queue = direct ? sending : incoming;
    // Where nobody waits for the end of this send, it may become a part of the one before it.
    if (reports_writes || item->release_in_batch || !PackInto(queue, *item)) {
      queued_bytes.Add(item->size);
      queued_sends.Add(1);
      queued_charge.Add(item->size + item->overhead);
      if (!direct) requested.store(true, std::memory_order_release);
      queue.Push(item);
      return SendResult::kAccepted;
    }
  }
  SendItem::Destroy(item, Worker::CurrentSendMemory());
  return SendResult::kAccepted;
}

// Makes the item a part of the last one in the queue; of nothing, nothing. Under `mutex`.
bool Context::PackInto(SendQueue& queue, const SendItem& item) {
  if (item.size == 0) return true;
  if (options->max_pending_sends || !queue.Pack(item)) return false;
  // The charge stays: what was room in a block is bytes to send now.
  queued_bytes.Add(item.size);
  return true;
}

void Context::RequestClose(CloseReason why) {
  const MutexLock lock(mutex);
  if (finished || abort_requested.load(std::memory_order_relaxed) ||
      close_requested.load(std::memory_order_relaxed)) {
    return;
  }
  close_requested.store(true, std::memory_order_release);
  open.store(false, std::memory_order_release);
  requested_reason = why;
  requested.store(true, std::memory_order_release);
  CallWorker();
}

void Context::RequestAbort(CloseReason why) {
  const MutexLock lock(mutex);
  if (finished || abort_requested.load(std::memory_order_relaxed)) return;
  abort_requested.store(true, std::memory_order_release);
  if (!close_requested.load(std::memory_order_relaxed)) requested_reason = why;
  open.store(false, std::memory_order_release);
  requested.store(true, std::memory_order_release);
  CallWorker();
}

void Context::SetUserPause(bool paused) {
  if (paused_by_user.exchange(paused) == paused) return;
  const MutexLock lock(mutex);
  if (!finished) CallWorker();
}

Worker* Context::CallWorker() {
  Worker* const worker = Worker::Current();
  if (worker != nullptr && &worker->shard() == shard && worker->MayTakeInHook(*this)) {
    return worker->Activate(*this) ? worker : nullptr;
  }
  if (!posted) {
    posted = true;
    shard->port().Post(*this);
  }
  return nullptr;
}

// ---- The pool.

void ContextPool::Close() {
  Context* unused = nullptr;
  bool last = false;
  {
    const MutexLock lock(mutex_);
    closed_ = true;
    unused = std::exchange(free_list_, nullptr);
    free_count_.store(0, std::memory_order_relaxed);
    last = in_use_ == 0;
  }
  while (unused != nullptr) delete std::exchange(unused, unused->next_free_);
  if (last) delete this;
}

Context* ContextPool::Take() noexcept {
  Context* context = nullptr;
  {
    const MutexLock lock(mutex_);
    ++in_use_;
    if (free_list_ != nullptr) {
      context = std::exchange(free_list_, free_list_->next_free_);
      free_count_.fetch_sub(1, std::memory_order_relaxed);
    }
  }
  if (context == nullptr) {
    context = new (std::nothrow) Context(this);
    if (context == nullptr) {
      const MutexLock lock(mutex_);
      --in_use_;
    }
    return context;
  }
  // As new: no state of the connection before can survive in a member that was forgotten.
  context->~Context();
  return new (context) Context(this);
}

void ContextPool::Return(Context* context) noexcept {
  bool keep = false;
  bool last = false;
  {
    const MutexLock lock(mutex_);
    --in_use_;
    keep = !closed_ && free_count_.load(std::memory_order_relaxed) < max_free_;
    if (keep) {
      context->next_free_ = free_list_;
      free_list_ = context;
      free_count_.fetch_add(1, std::memory_order_relaxed);
    }
    last = closed_ && in_use_ == 0;
  }
  if (!keep) delete context;
  if (last) delete this;
}

}  // namespace iocp
