#include "session/inbox.h"

#include <new>
#include <utility>

namespace iocp {

bool Inbox::RequestClose(CloseReason why) {
  if (finished_ || abort_requested_.load(std::memory_order_relaxed) ||
      close_requested_.load(std::memory_order_relaxed)) {
    return false;
  }
  close_requested_.store(true, std::memory_order_release);
  open_.store(false, std::memory_order_release);
  reason_ = why;
  NoteRequest();
  return true;
}

bool Inbox::RequestAbort(CloseReason why) {
  if (finished_ || abort_requested_.load(std::memory_order_relaxed)) return false;
  abort_requested_.store(true, std::memory_order_release);
  if (!close_requested_.load(std::memory_order_relaxed)) reason_ = why;
  open_.store(false, std::memory_order_release);
  NoteRequest();
  return true;
}

bool Inbox::Leave(Completion&& completion) {
  NoteRequest();
  try {
    mail_.push_back(std::move(completion));
  } catch (const std::bad_alloc&) {
    if (completion.operation == Operation::kSend) {
      lost_.send = true;
      lost_.sent = completion.bytes;
      lost_.send_error = completion.error;
    } else {
      ++lost_.receives;
      if (completion.last) lost_.receives_expected = completion.sequence + 1;
    }
  }
  if (mail_.size() < kMostMail) return false;
  // The owner may be in a hook for as long as the peer can send.
  paused_ = true;
  return true;
}

bool Inbox::BeginPosting() { return !std::exchange(posted_, true); }

Inbox::Contents Inbox::Take(SendQueue& sending) {
  Contents contents;
  const MutexLock lock(mutex_);
  sending.Append(sends_);
  contents.mail.swap(mail_);
  contents.lost = std::exchange(lost_, {});
  contents.paused = std::exchange(paused_, false);
  requested_.store(false, std::memory_order_relaxed);
  contents.close = close_requested_.load(std::memory_order_relaxed);
  contents.abort = abort_requested_.load(std::memory_order_relaxed);
  contents.reason = reason_;
  return contents;
}

void Inbox::StopSends(SendQueue& sending) {
  const MutexLock lock(mutex_);
  open_.store(false, std::memory_order_release);
  sending.Append(sends_);
}

bool Inbox::Finish() {
  const MutexLock lock(mutex_);
  if (posted_) return false;
  finished_ = true;
  return true;
}

}  // namespace iocp
