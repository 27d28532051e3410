// Puts receives in the order of the stream, in whatever order they complete.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "iocp/buffer.h"
#include "iocp/error.h"

namespace iocp {

// One receive completion: data, or how the stream ended.
struct Received {
  std::uint64_t sequence = 0;
  Buffer buffer;
  Error end;  // kNone: there is data
};

// Several receives that are posted complete in any order, and each carries its number. Early ones
// wait here. The queue belongs to the connection's owner. It allocates only when a receive is
// early, which never happens on ports that post one at a time.
class ReorderQueue {
 public:
  // Calls `deliver(Received&&)` for `received` and for those that waited for it, in order. It calls
  // nothing while an earlier receive is missing. Throws std::bad_alloc when there is no memory for
  // `received` to wait; it is lost then.
  template <typename Deliver>
  void Push(Received&& received, Deliver deliver) {
    if (received.sequence != next_) {
      Keep(std::move(received));
      return;
    }
    ++next_;
    deliver(std::move(received));
    while (early_ != nullptr && !early_->empty() && early_->back().sequence == next_) {
      Received waited = std::move(early_->back());
      early_->pop_back();
      ++next_;
      deliver(std::move(waited));
    }
  }

  void Clear() { early_.reset(); }
  [[nodiscard]] std::size_t waiting() const { return early_ == nullptr ? 0 : early_->size(); }

 private:
  void Keep(Received received) {
    if (early_ == nullptr) early_ = std::make_unique<std::vector<Received>>();
    const auto place = std::upper_bound(
        early_->begin(), early_->end(), received.sequence,
        [](std::uint64_t sequence, const Received& other) { return sequence > other.sequence; });
    early_->insert(place, std::move(received));
  }

  std::uint64_t next_ = 0;
  std::unique_ptr<std::vector<Received>> early_;  // the lowest number last
};

}  // namespace iocp
