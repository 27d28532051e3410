#include "session/broadcast.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <new>
#include <utility>

#include "session/session.h"

namespace iocp {

// ---- One copy for many.

struct SharedCopy::Shared {
  const std::string bytes;
  std::atomic<std::size_t> references{1};

  static void Release(void* owner) {
    auto* const shared = static_cast<Shared*>(owner);
    if (shared->references.fetch_sub(1, std::memory_order_acq_rel) == 1) delete shared;
  }
};

SharedCopy::SharedCopy(std::string bytes) : shared_(new Shared{std::move(bytes)}) {}
SharedCopy::~SharedCopy() { Shared::Release(shared_); }

SendResult SharedCopy::SendTo(Session& session, SendMemory* memory) const {
  const std::string_view bytes = shared_->bytes;
  // Copies of few bytes share blocks, and are gathered by many at once.
  if (bytes.size() <= Outbound::kMostPacked) return session.EnqueueCopy(&bytes, 1);
  SendItem* const item =
      SendItem::Share({bytes.data(), bytes.size(), &Shared::Release, shared_}, false, memory);
  if (item == nullptr) throw std::bad_alloc();
  shared_->references.fetch_add(1, std::memory_order_relaxed);
  const SendResult result = session.Enqueue(item);
  if (result != SendResult::kAccepted) SendItem::Destroy(item, memory);
  return result;
}

// ---- The loop.

std::size_t Broadcasting::SendToEach(std::vector<ConnectionPtr>& to) {
  SendMemory* const memory = Owner::CurrentSendMemory();
  std::size_t accepted = 0;
  std::size_t full = 0;
  for (ConnectionPtr& connection : to) {
    if (!connection->is_open()) continue;
    Session& session = Session::Of(*connection);
    const std::optional<SendResult> result = SendTo(session, memory);
    if (result == SendResult::kAccepted) ++accepted;
    if (result != SendResult::kBacklogFull) continue;
    session.shared_counters().broadcasts_skipped.fetch_add(1, std::memory_order_relaxed);
    std::swap(to[full++], connection);
  }
  to.resize(full);
  return accepted;
}

std::optional<SendResult> BytesBroadcast::SendTo(Session& session, SendMemory* memory) {
  if (bytes_.size() <= Outbound::kMostPacked) return session.EnqueueCopy(&bytes_, 1);
  if (!shared_) shared_.emplace(std::string(bytes_));
  return shared_->SendTo(session, memory);
}

std::optional<SendResult> MessageBroadcast::SendTo(Session& session, SendMemory* memory) {
  FramingPtr framing = session.CurrentFraming();
  if (framing == nullptr) return std::nullopt;
  auto found = frames_.find(framing);
  if (found == frames_.end()) {
    Frame frame;
    framing->Encode(message_, &frame);
    const std::string_view body = frame.BodyOf(message_);
    std::string bytes;
    bytes.reserve(frame.head().size() + body.size() + frame.tail().size());
    bytes += frame.head();
    bytes += body;
    bytes += frame.tail();
    found = frames_.try_emplace(std::move(framing), std::move(bytes)).first;
  }
  return found->second.SendTo(session, memory);
}

void RemoveDuplicates(std::vector<ConnectionPtr>& connections) {
  std::erase_if(connections, [](const ConnectionPtr& connection) { return !connection; });
  const auto before = [](const ConnectionPtr& one, const ConnectionPtr& other) {
    return std::less<>()(one.get(), other.get());
  };
  const auto same = [](const ConnectionPtr& one, const ConnectionPtr& other) {
    return one.get() == other.get();
  };
  std::sort(connections.begin(), connections.end(), before);
  connections.erase(std::unique(connections.begin(), connections.end(), same), connections.end());
}

}  // namespace iocp
