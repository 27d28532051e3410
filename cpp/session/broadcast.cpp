#include "session/broadcast.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include "session/session.h"
#include "stream/send_item.h"

namespace iocp {
namespace {

// One copy of the bytes for many sends; the last of them to end frees it.
class SharedCopy {
 public:
  SharedCopy(std::string_view data, std::size_t most_sends)
      : shared_(new Shared{std::string(data), most_sends + 1}), unused_(most_sends + 1) {}
  SharedCopy(const SharedCopy&) = delete;
  SharedCopy& operator=(const SharedCopy&) = delete;
  ~SharedCopy() { Shared::Drop(shared_, unused_); }

  SendResult SendTo(Session& session, SendMemory* memory) {
    const std::string& bytes = shared_->bytes;
    SendItem* const item =
        SendItem::Share({bytes.data(), bytes.size(), &Shared::Release, shared_}, false, memory);
    if (item == nullptr) throw std::bad_alloc();
    --unused_;
    const SendResult result = session.Enqueue(item);
    if (result != SendResult::kAccepted) SendItem::Destroy(item, memory);
    return result;
  }

 private:
  struct Shared {
    const std::string bytes;
    std::atomic<std::size_t> references;

    static void Drop(Shared* shared, std::size_t count) {
      if (shared->references.fetch_sub(count, std::memory_order_acq_rel) == count) delete shared;
    }
    static void Release(void* shared) { Drop(static_cast<Shared*>(shared), 1); }
  };

  Shared* const shared_;
  // References that no send has: one for each send that may still be made, and one of this.
  std::size_t unused_;
};

}  // namespace

std::size_t SendToEach(std::string_view data, std::vector<ConnectionPtr>& to) {
  // Copies of few bytes share blocks, and are gathered by many at once.
  std::optional<SharedCopy> shared;
  if (data.size() > Outbound::kMostPacked) shared.emplace(data, to.size());
  SendMemory* const memory = Owner::CurrentSendMemory();
  std::size_t accepted = 0;
  std::size_t full = 0;
  for (ConnectionPtr& connection : to) {
    if (!connection->is_open()) continue;
    Session& session = Session::Of(*connection);
    const SendResult result =
        shared ? shared->SendTo(session, memory) : session.EnqueueCopy(&data, 1);
    if (result == SendResult::kAccepted) ++accepted;
    if (result != SendResult::kBacklogFull) continue;
    session.shared_counters().broadcasts_skipped.fetch_add(1, std::memory_order_relaxed);
    std::swap(to[full++], connection);
  }
  to.resize(full);
  return accepted;
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
