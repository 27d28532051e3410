// The inbound part of a session: received bytes, their order, and the end of the peer's stream.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <utility>
#include <vector>

#include "base/counter.h"
#include "iocp/buffer.h"
#include "iocp/error.h"
#include "iocp/options.h"
#include "port/completion_port.h"
#include "stream/buffer_pool.h"
#include "stream/reorder_queue.h"

namespace iocp {

// Belongs to the session's owner, but for what any thread may ask.
class Inbound {
 public:
  // Bytes that have come out in order, delivered to a hook or not. Any thread.
  [[nodiscard]] std::uint64_t bytes_received() const { return received_bytes_.value(); }

  // --- The receive.

  // True exactly when Receive was called and has not ended.
  [[nodiscard]] bool in_flight() const { return in_flight_; }
  void Begin() { in_flight_ = true; }
  // Counts `came` more completions of the receive. `expected`: how many there are in all; 0: not
  // known yet.
  void Count(std::uint64_t came, std::uint64_t expected);
  [[nodiscard]] std::uint64_t completions() const { return came_; }
  // Puts a completion in order: see ReorderQueue::Push.
  template <typename Deliver>
  void Push(Received&& received, Deliver deliver) {
    reorder_.Push(std::move(received), deliver);
  }
  [[nodiscard]] const ReorderQueue& reorder() const { return reorder_; }
  // Forgets what is early; nothing is delivered any more.
  void Clear() { reorder_.Clear(); }

  // True exactly when the peer's stream has ended, and all before it has come.
  [[nodiscard]] bool ended() const { return static_cast<bool>(end_); }
  // How it ended: kEndOfStream, or worse.
  [[nodiscard]] const Error& end() const { return end_; }
  void End(const Error& how) { end_ = how; }
  [[nodiscard]] bool ended_in_order() const { return end_.kind == ErrorKind::kEndOfStream; }
  // True exactly when the wire has ended too. A stage may end the stream before.
  [[nodiscard]] bool wire_ended() const { return wire_ended_; }
  // True exactly when it has not ended in order.
  [[nodiscard]] bool wire_broke() const { return wire_broke_; }
  void EndWire(const Error& how) {
    wire_ended_ = true;
    if (how.kind != ErrorKind::kEndOfStream) wire_broke_ = true;
  }
  // True exactly when OnEndOfStream was called, or was due and nobody wanted it.
  [[nodiscard]] bool end_reported() const { return end_reported_; }
  void ReportEnd() { end_reported_ = true; }

  void CountBytes(std::size_t bytes) { received_bytes_.Add(bytes); }

  // --- What cannot be delivered yet.

  [[nodiscard]] bool has_deferred() const { return !deferred_.empty(); }
  // May throw std::bad_alloc. A buffer that wastes its block is moved into a smaller one.
  void Defer(Buffer buffer) { deferred_.push_back(BufferPool::Compact(std::move(buffer))); }
  // In front of those that wait already.
  void DeferFirst(Buffer buffer) {
    deferred_.insert(deferred_.begin(), BufferPool::Compact(std::move(buffer)));
  }
  void DeferFirst(std::vector<Buffer> buffers) {
    deferred_.insert(deferred_.begin(), std::move_iterator(buffers.begin()),
                     std::move_iterator(buffers.end()));
  }
  [[nodiscard]] std::size_t deferred_bytes() const {
    std::size_t bytes = 0;
    for (const Buffer& buffer : deferred_) bytes += buffer.size();
    return bytes;
  }
  // Gives the oldest to `deliver(Buffer&)` while `deliverable()`, until it leaves bytes in one. It
  // may call DropDeferred, but must not defer anything.
  template <typename Deliverable, typename Deliver>
  void DeliverDeferred(Deliverable deliverable, Deliver deliver) {
    std::size_t count = 0;
    while (count < deferred_.size() && deliverable()) {
      Buffer buffer = std::move(deferred_[count]);
      deliver(buffer);
      if (count < deferred_.size() && buffer.size() != 0) {
        deferred_[count] = BufferPool::Compact(std::move(buffer));
        break;
      }
      ++count;
    }
    count = std::min(count, deferred_.size());
    deferred_.erase(deferred_.begin(), deferred_.begin() + static_cast<std::ptrdiff_t>(count));
    // A pause is rare; an idle connection should not carry its traces.
    if (deferred_.empty()) deferred_.shrink_to_fit();
  }
  void DropDeferred() {
    deferred_.clear();
    deferred_.shrink_to_fit();
  }

  // --- Flow control.

  // Compares the memory that waits to be sent, `charge`, with the two marks. True while hooks get
  // no data because of it: from above the high mark until it is down to the low one.
  bool UpdateFlow(std::size_t charge, const Options& options) {
    return over_high_water_ = Congested(charge, options);
  }
  // The answer that UpdateFlow would give.
  [[nodiscard]] bool Congested(std::size_t charge, const Options& options) const {
    if (!options.flow_control) return false;
    return charge > (over_high_water_ ? options.write_low_water : options.write_high_water);
  }
  // True exactly when the port was last asked to pause, as far as the owner knows: see
  // Inbox::Contents::paused.
  [[nodiscard]] bool port_paused() const { return port_paused_; }
  void set_port_paused(bool paused) { port_paused_ = paused; }

 private:
  Counter received_bytes_;      // written by the owner
  std::uint64_t came_ = 0;      // completions of the receive, in whatever order
  std::uint64_t expected_ = 0;  // 0: the last one has not come yet
  ReorderQueue reorder_;
  std::vector<Buffer> deferred_;
  Error end_;
  bool in_flight_ = false;
  bool wire_ended_ = false;
  bool wire_broke_ = false;
  bool port_paused_ = false;
  bool end_reported_ = false;
  bool over_high_water_ = false;  // true exactly from above the high mark until down to the low one
};

}  // namespace iocp
