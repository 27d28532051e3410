// How a session gives messages to its hooks, and sends them.
#include <algorithm>
#include <initializer_list>
#include <iterator>
#include <new>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "session/broadcast.h"
#include "session/session.h"

namespace iocp {
namespace {

// The bytes around the message in most frames.
constexpr std::size_t kMostAround = 8;
// A longer message shares its memory with no other.
constexpr std::size_t kMostPacked = 4096;
// The most messages in one list.
constexpr std::size_t kMostInList = 4096;

}  // namespace

// ---- Any thread: the framing.

FramingPtr Session::CurrentFraming() const {
  const MutexLock lock(inbox_.mutex());
  return framing_;
}

void Session::SwitchFraming(FramingPtr framing) {
  const MutexLock lock(inbox_.mutex());
  framing_.swap(framing);
  framing_changed_.store(true, std::memory_order_release);
  // Bytes that wait for the rest of a message may be a whole one for the new framing.
  if (!inbox_.finished()) Wake();
}

// ---- The owner.

void Session::SetFirstFraming() {
  const MutexLock lock(inbox_.mutex());
  framing_ = options_->framing;
  framing_changed_.store(true, std::memory_order_relaxed);
}

// Another framing cuts what was received and not delivered. Throws std::bad_alloc.
void Session::TakeFraming() {
  std::unique_ptr<MessageCutter> cutter;
  framing_changed_.store(false, std::memory_order_relaxed);
  if (FramingPtr now = CurrentFraming()) cutter = std::make_unique<MessageCutter>(std::move(now));
  if (cutter_ != nullptr) inbound_.DeferFirst(cutter_->GiveBack());
  cutter_ = std::move(cutter);
  timeouts_.EndMessage();
}

// Before anything is delivered.
void Session::FollowFraming(Owner& owner) {
  if (!FramingDue()) return;
  try {
    TakeFraming();
  } catch (const std::bad_alloc&) {
    RunOutOfMemory(owner);
  }
}

// Defers bytes that hooks did not take.
void Session::DeferFirst(Owner& owner, Buffer& bytes) {
  try {
    inbound_.DeferFirst(std::move(bytes));
  } catch (const std::bad_alloc&) {
    RunOutOfMemory(owner);
  }
}

// Gives `bytes` to the hooks, one after the other. Bytes that they do not take now are left in it.
void Session::DeliverBytes(Owner& owner, Buffer& bytes) {
  while (bytes.size() != 0 && MayRead()) {
    // First, as it may have to wait for somebody who sets a framing.
    EnterToRead(owner);
    if (framing_changed_.load(std::memory_order_acquire)) {
      // The kept bytes come before these: the new framing gets both in the order of the stream when
      // DeliverPending gives it what waits.
      if (cutter_ != nullptr && cutter_->inside()) return;
      FollowFraming(owner);
    } else if (cutter_ == nullptr) {
      NotifyRead(owner, bytes);
      // Gone before the next hook runs: unless the hook kept it, the block can be used again.
      bytes = Buffer();
    } else if (!DeliverMessages(owner, bytes, false)) {
      return;
    }
  }
}

// One hook's share of `bytes`: a message, or a list of them; or what follows when there is none.
// False when hooks take no more for now.
bool Session::DeliverMessages(Owner& owner, Buffer& bytes, bool last) try {
  HookBatch& hooks = owner.hooks();
  const bool lists = hooks.wants(kHookMessages);
  std::vector<Message>& messages = owner.messages();
  const MessageCutter::Cuts cuts = cutter_->Cut(bytes, lists ? kMostInList : 1, last, &messages);
  if (messages.empty()) {
    if (cuts.used != 0) {
      cutter_->Consume(bytes, cuts.used);
      timeouts_.EndMessage();
    } else if (cuts.fault) {
      FailFrame(owner, cutter_->fault());
      return false;
    } else {
      timeouts_.BeginMessage(owner.now());
      cutter_->Keep(std::exchange(bytes, Buffer()));
    }
    return true;
  }
  if (lists || hooks.wants(kHookMessage)) hooks.Enter();
  owner.set_delivering({this, &bytes, cutter_->kept() + bytes.size()});
  CallTimers(owner);
  owner.set_delivering({});
  // Looked at again once the batch has begun: whoever it had to wait for may have closed the
  // connection, or set another framing.
  if (!MayRead() || framing_changed_.load(std::memory_order_acquire)) return false;
  cutter_->Decode(messages);
  owner.set_delivering({this, &bytes, cutter_->kept() + bytes.size() - cuts.used});
  owner.counters().messages.Add(messages.size());
  if (lists) {
    hooks.Run(*this, kHookMessages, [&](Handler& handler) { handler.OnMessages(*this, messages); });
  } else {
    hooks.Run(*this, kHookMessage,
              [&](Handler& handler) { handler.OnMessage(*this, messages.front()); });
  }
  owner.set_delivering({});
  cutter_->Consume(bytes, cuts.used);
  timeouts_.EndMessage();
  return true;
} catch (const std::bad_alloc&) {
  RunOutOfMemory(owner);
  return false;
}

// The stream has ended in order. True when it ended between two messages and the hooks have had all
// of them.
bool Session::EndMessages(Owner& owner) {
  Buffer none;
  while (cutter_ != nullptr && cutter_->inside()) {
    const std::size_t kept = cutter_->kept();
    // Another framing looks at it in the next turn.
    if (framing_changed_.load(std::memory_order_acquire)) return false;
    if (!MayRead() || !DeliverMessages(owner, none, true)) return false;
    if (cutter_->kept() != kept) continue;
    FailFrame(owner, {FrameFault::Kind::kTruncated, std::nullopt, 0});
    return false;
  }
  return true;
}

// The peer still gets what was sent for the messages before, and the end of our stream.
void Session::FailFrame(Owner& owner, const FrameFault& fault) {
  if (closing_.phase() == Phase::kOpen) {
    cutter_->set_fault(fault);
    closing_.set_error({ErrorKind::kBadFrame, 0});
    BeginFlush(owner, CloseReason::kFrameError);
  } else if (closing_.phase() == Phase::kFailing) {
    BeginCancel();
  }
}

// ---- Any thread: sending.

namespace {

// The frames of messages, as items to send. Destroys what was not sent.
class FrameQueue {
 public:
  explicit FrameQueue(SendMemory* memory) : memory_(memory) {}
  FrameQueue(const FrameQueue&) = delete;
  FrameQueue& operator=(const FrameQueue&) = delete;
  ~FrameQueue() {
    while (SendItem* const item = items_.Pop()) {
      item->release = nullptr;  // the bytes stay the caller's
      SendItem::Destroy(item, memory_);
    }
  }

  // About so many bytes are copied before the next that are shared.
  void Expect(std::size_t size) { left_ = size; }
  // Behind what was copied before, where there is room.
  void Copy(std::initializer_list<std::string_view> pieces) {
    const std::size_t size = SendItem::TotalSize(pieces.begin(), pieces.size());
    if (size == 0) return;
    if (!items_.Pack(pieces.begin(), pieces.size(), size)) {
      const std::size_t room = std::max(size, std::min(left_, kMostRoom));
      Push(SendItem::Copy(pieces.begin(), pieces.size(), size, room, memory_));
    }
    left_ -= std::min(left_, size);
  }
  void Share(const SharedBytes& bytes) { Push(SendItem::Share(bytes, true, memory_)); }

  [[nodiscard]] SendQueue& items() { return items_; }

 private:
  static constexpr std::size_t kMostRoom = std::size_t{1024} * 1024;  // of an item

  void Push(SendItem* item) {
    if (item == nullptr) throw std::bad_alloc();
    items_.Push(item);
  }

  SendMemory* const memory_;
  std::size_t left_ = 0;
  SendQueue items_;
};

std::string_view ViewOf(const SharedBytes& bytes) {
  return {static_cast<const char*>(bytes.data), bytes.size};
}

}  // namespace

SendResult Session::EnqueueMessages(const SharedBytes* messages, std::size_t count) {
  FramingPtr held;
  const Framing* const framing = FramingToSend(&held);
  if (framing == nullptr) {
    throw std::logic_error("the connection has no framing that could send a message");
  }
  if (!inbox_.open()) return SendResult::kClosed;
  if (count == 1 && messages[0].release == nullptr) {
    Frame frame;
    framing->Encode(ViewOf(messages[0]), &frame);
    const std::string_view pieces[] = {frame.head(), frame.BodyOf(ViewOf(messages[0])),
                                       frame.tail()};
    return EnqueueCopy(pieces, std::size(pieces));
  }
  return outbound_.packs() ? EnqueueFrames(*framing, messages, count)
                           : EnqueueAsOne(*framing, messages, count);
}

// Null: there is none. `*held` keeps it, unless the calling thread is the owner's: then it is that
// of the cutter, and no lock is needed.
const Framing* Session::FramingToSend(FramingPtr* held) {
  const Owner* const worker = Owner::Current();
  if (worker != nullptr && ownership_.IsOf(*worker) && cutter_ != nullptr &&
      !framing_changed_.load(std::memory_order_acquire)) {
    return &cutter_->framing();
  }
  *held = CurrentFraming();
  return held->get();
}

SendResult Session::EnqueueFrames(const Framing& framing, const SharedBytes* messages,
                                  std::size_t count) {
  // A frame may be far larger than its message: room that was made for one and does not hold it
  // would be wasted. So a long one gets an item of its own.
  const auto stands_alone = [&](std::size_t i) {
    return messages[i].release != nullptr || messages[i].size > kMostPacked;
  };
  // The size of the messages from the `i`th on, up to one that stands alone, whose head is copied.
  const auto bytes_from = [&](std::size_t i) {
    std::size_t size = 0;
    for (; i < count; ++i) {
      size += kMostAround;
      if (stands_alone(i)) break;
      size += messages[i].size;
    }
    return size;
  };
  FrameQueue queue(Owner::CurrentSendMemory());
  queue.Expect(bytes_from(0));
  std::vector<SharedBytes> copied;
  for (std::size_t i = 0; i < count; ++i) {
    const std::string_view message = ViewOf(messages[i]);
    Frame frame;
    framing.Encode(message, &frame);
    if (messages[i].release != nullptr && !frame.is_encoded()) {
      queue.Copy({frame.head()});
      queue.Share(messages[i]);
      queue.Expect(bytes_from(i + 1));
      queue.Copy({frame.tail()});
    } else {
      queue.Copy({frame.head(), frame.BodyOf(message), frame.tail()});
      if (messages[i].release != nullptr) copied.push_back(messages[i]);
      if (stands_alone(i)) queue.Expect(bytes_from(i + 1));
    }
  }
  const SendResult result = EnqueueAll(queue.items());
  if (result == SendResult::kAccepted) {
    for (const SharedBytes& bytes : copied) bytes.release(bytes.owner);
  }
  return result;
}

// Where sends are counted, or their ends reported, all of them are one.
SendResult Session::EnqueueAsOne(const Framing& framing, const SharedBytes* messages,
                                 std::size_t count) {
  std::string bytes;
  bytes.reserve(std::accumulate(messages, messages + count, std::size_t{0},
                                [](std::size_t size, const SharedBytes& message) {
                                  return size + message.size + kMostAround;
                                }));
  for (std::size_t i = 0; i < count; ++i) {
    Frame frame;
    framing.Encode(ViewOf(messages[i]), &frame);
    bytes += frame.head();
    bytes += frame.BodyOf(ViewOf(messages[i]));
    bytes += frame.tail();
  }
  const SendResult result = SharedCopy(std::move(bytes)).SendTo(*this, Owner::CurrentSendMemory());
  for (std::size_t i = 0; i < count && result == SendResult::kAccepted; ++i) {
    if (messages[i].release != nullptr) messages[i].release(messages[i].owner);
  }
  return result;
}

}  // namespace iocp
