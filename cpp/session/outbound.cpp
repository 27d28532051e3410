#include "session/outbound.h"

#include <new>
#include <utility>

namespace iocp {

std::size_t Outbound::BacklogAtOneMoment() const {
  for (;;) {
    const std::uint64_t ended = ended_bytes_.value();
    const std::size_t sum = backlog();
    // Nothing has ended in between. Else it could be more than it ever was, by all that came and
    // went while this thread did not run.
    if (ended_bytes_.value() == ended) return sum;
  }
}

void Outbound::Accept(SendQueue& queue, SendItem* item) {
  queued_bytes_.Add(item->size);
  queued_sends_.Add(1);
  queued_charge_.Add(item->size + item->overhead);
  queue.Push(item);
  writable_.NoteRise([this] { return charge(); });
}

void Outbound::AcceptCopy(SendQueue& queue, const std::string_view* pieces, std::size_t count,
                          std::size_t size, SendMemory* memory) {
  if (size == 0 && !reports_writes_) return;
  if (packs_ && queue.Pack(pieces, count, size)) {
    // The charge stays: what was room in a block is bytes to send now.
    queued_bytes_.Add(size);
    return;
  }
  // Where one send waits, more may follow: each gathered send takes few blocks, but many bytes.
  const bool shares = packs_ && !queue.empty();
  const std::size_t room = shares ? SendMemory::kLargestBlock - sizeof(SendItem) : size;
  SendItem* const item = SendItem::Copy(pieces, count, size, room, memory);
  if (item == nullptr) throw std::bad_alloc();
  Accept(queue, item);
}

void Outbound::CountSent(std::size_t bytes, SendMemory* memory) {
  if (stages_ != nullptr) bytes = stages_->Sent(bytes, memory);
  sent_bytes_.Add(bytes);
  ended_bytes_.Add(bytes);
  ended_charge_.Add(bytes);
  SendQueue ended;
  const std::size_t sends = queue_.Advance(bytes, ended);
  Complete(ended, memory);
  // Not for bytes that stages have added.
  if (bytes != 0 || sends != 0) writable_.NoteFall([this] { return charge(); });
}

void Outbound::CountEmpty(SendMemory* memory) { CountSent(0, memory); }

bool Outbound::Drop(SendMemory* memory) {
  SendQueue ended;
  queue_.Advance(0, ended);
  while (SendItem* item = queue_.Pop()) {
    item->dropped = true;
    ended.Push(item);
  }
  const std::size_t unsent = backlog();
  ended_bytes_.Add(unsent);
  ended_charge_.Add(unsent);
  Complete(ended, memory);
  return unsent != 0 || (stages_ != nullptr && !stages_->empty());
}

void Outbound::Complete(SendQueue& ended, SendMemory* memory) {
  while (SendItem* item = ended.Pop()) {
    ended_sends_.Add(1);
    ended_charge_.Add(item->overhead);
    if (item->release_in_batch || (reports_writes_ && !item->dropped)) {
      unreported_charge_.Add(item->size + item->overhead);
      ended_.Push(item);
    } else {
      SendItem::Destroy(item, memory);
    }
  }
}

bool Outbound::TakesBytes(std::size_t unacknowledged) {
  const std::uint64_t given = stages_ == nullptr ? sent_bytes_.value() : stages_->bytes_sent();
  const std::uint64_t taken = given - unacknowledged;
  const std::uint64_t before =
      std::exchange(acknowledged_, unacknowledged != 0 ? taken : kNotLookedAt);
  return before == kNotLookedAt ? unacknowledged != 0 : taken != before;
}

}  // namespace iocp
