// The second half of the simulated port: what the network does becomes completions, and Wait brings
// them.
#include <algorithm>
#include <cstring>
#include <utility>

#include "memory.h"
#include "sim_port.h"

namespace iocp::sim {
namespace {

// A read that found no buffer is tried again so much later.
constexpr std::chrono::milliseconds kBufferRetry{10};

}  // namespace

// ---- The network acts on the operations in flight.

void SimPort::Make(Completion completion) {
  network_.Note("completion", static_cast<std::uint64_t>(completion.operation),
                static_cast<std::uint64_t>(completion.error.kind));
  const TimePoint at = network_.Soon();
  made_.push_back({std::move(completion), at});
}

bool SimPort::Strikes(Bug bug) {
  return network_.settings.bug == bug && network_.choices.Chance(0.1);
}

void SimPort::Produce() {
  for (const auto& listening : listening_) ProduceAccepts(*listening);
  for (const auto& stream : streams_) {
    ProduceReads(*stream);
    ProduceSend(*stream);
  }
}

void SimPort::ProduceAccepts(Listening& listening) {
  if (!Accepts(listening)) return;
  std::deque<LinkPtr>& backlog = *network_.BacklogOf(listening.socket->handle);
  AcceptGate* const gate = Strikes(Bug::kAcceptsTheBacklog) ? nullptr : options_.gate;
  for (int i = 0; i < options_.max_accepts && !backlog.empty(); ++i) {
    if (gate != nullptr && !gate->Enter(*listening.socket)) {
      listening.paused = true;
      return;
    }
    Completion completion;
    completion.operation = Operation::kAccept;
    completion.last = false;
    completion.socket = listening.socket;
    if (network_.exhausted || network_.Fails(network_.faults.accept_exhausted)) {
      listening.exhausted = true;
      completion.error = Failure(ErrorKind::kOutOfResources);
    } else if (network_.Fails(network_.faults.accept_error)) {
      network_.SendReset(*backlog.front(), false);
      backlog.front()->server_open = false;
      backlog.pop_front();
      if (Strikes(Bug::kForgetsAnAccept)) listening.exhausted = true;
      completion.error = Failure(ErrorKind::kClientGone);
    } else {
      completion.accepted = network_.OpenConnection(std::move(backlog.front()));
      backlog.pop_front();
    }
    const bool failed = completion.error.kind == ErrorKind::kOutOfResources;
    if (completion.error && gate != nullptr) gate->Leave();
    Make(std::move(completion));
    if (failed) return;
  }
}

void SimPort::ProduceReads(Stream& stream) {
  if (!stream.receiving || stream.ended) return;
  if (stream.reads.empty()) {
    if (stream.paused && network_.ResetArrived(*stream.link, true)) {
      EndReads(stream, ErrorKind::kReset);
    }
    return;
  }
  if (network_.Fails(network_.faults.reset)) {
    network_.SendReset(*stream.link, true);
    network_.SendReset(*stream.link, false);
  }
  const bool reset = network_.ResetArrived(*stream.link, true);
  while (!stream.reads.empty() && ProduceData(stream)) {
  }
  if (stream.reads.empty() || stream.retry_at > network_.now()) return;
  if (reset) {
    EndReads(stream, Strikes(Bug::kResetAsEnd) ? ErrorKind::kEndOfStream : ErrorKind::kReset);
  } else if (stream.link->up.AtEnd(network_.now())) {
    EndReads(stream, ErrorKind::kEndOfStream);
  }
}

// One receive; false when there was nothing, or nothing to receive it into.
bool SimPort::ProduceData(Stream& stream) {
  Pipe& pipe = stream.link->up;
  const std::string_view arrived = pipe.Arrived(network_.now());
  if (arrived.empty() || stream.retry_at > network_.now()) return false;
  if (Strikes(Bug::kEndOvertakesData)) {
    EndReads(stream, ErrorKind::kEndOfStream);
    return false;
  }
  Block* block = TakeBlock();
  if (block == nullptr) {
    stream.retry_at = network_.now() + kBufferRetry;
    network_.Expect(stream.retry_at);
    return false;
  }
  std::size_t size = std::min(arrived.size(), block->capacity());
  if (network_.choices.Chance(network_.faults.short_read)) size = network_.choices.Size(size);
  std::memcpy(block->data(), arrived.data(), size);
  pipe.Take(size);
  if (size > 1 && Strikes(Bug::kLosesAByte)) --size;

  Completion completion;
  completion.operation = Operation::kReceive;
  completion.last = false;
  completion.socket = stream.socket;
  completion.sequence = stream.reads.front();
  if (Strikes(Bug::kKeepsABuffer)) block->AddReference();
  completion.buffer = Buffer(block, block->data(), size);
  stream.reads.pop_front();
  ++stream.undelivered;
  if (!made_.empty() && made_.back().completion.socket == stream.socket &&
      made_.back().completion.operation == Operation::kReceive && Strikes(Bug::kSwapsReads)) {
    std::swap(made_.back().completion.sequence, completion.sequence);
  }
  Make(std::move(completion));
  return true;
}

Block* SimPort::TakeBlock() {
  const FailingMemory::Scope armed(pool_may_fail_);
  return options_.pool->Take();
}

void SimPort::EndAccept(Listening& listening, ErrorKind kind) {
  if (std::exchange(listening.ended, true)) return;
  Completion last;
  last.operation = Operation::kAccept;
  last.error = Failure(kind);
  last.socket = listening.socket;
  Make(std::move(last));
}

void SimPort::EndReads(Stream& stream, ErrorKind kind) {
  stream.ended = true;
  // All are with Wait already, or none was posted while it was paused.
  if (stream.reads.empty()) stream.reads.push_back(stream.next_read++);
  bool behind = false;  // true exactly when a read before it has met the end
  while (!stream.reads.empty()) {
    // A system may have an error of its own for those behind the end in order.
    if (std::exchange(behind, true) && kind == ErrorKind::kEndOfStream &&
        network_.choices.Chance(0.3)) {
      kind = ErrorKind::kReset;
    }
    Completion completion;
    completion.operation = Operation::kReceive;
    completion.socket = stream.socket;
    completion.sequence = stream.reads.front();
    completion.last = stream.reads.size() == 1;
    completion.error = Failure(kind);
    stream.reads.pop_front();
    ++stream.undelivered;
    Make(std::move(completion));
  }
}

void SimPort::ProduceSend(Stream& stream) {
  if (!stream.sending) return;
  Completion completion;
  completion.operation = Operation::kSend;
  completion.socket = stream.socket;
  if (network_.ResetArrived(*stream.link, true)) {
    completion.error = Failure(ErrorKind::kReset);
  } else if (broken_) {
    completion.error = Failure(ErrorKind::kOther);
  } else if (network_.Fails(network_.faults.send_error)) {
    completion.error = Failure(network_.send_error);
  } else {
    completion.bytes = Transmit(stream, network_.faults.short_send);
    if (completion.bytes == 0) return;
    if (Strikes(Bug::kCountsTooMuch)) ++completion.bytes;
  }
  stream.sending = false;
  if (Strikes(Bug::kForgetsACompletion)) return;
  if (Strikes(Bug::kCompletesTwice)) {
    Completion again;
    again.operation = Operation::kSend;
    again.socket = stream.socket;
    again.bytes = completion.bytes;
    again.error = completion.error;
    Make(std::move(again));
  }
  Make(std::move(completion));
}

// The bytes are looked at as late as can be: they have to be there until the completion.
std::size_t SimPort::Transmit(Stream& stream, double short_send) {
  Link& link = *stream.link;
  std::size_t room = link.client_open ? link.down.Space() : ~std::size_t{0};
  if (room > 0 && network_.choices.Chance(short_send)) {
    room = network_.choices.Size(std::min<std::size_t>(room, 64 * 1024));
  }
  std::string bytes;
  for (const Piece& piece : stream.pieces) {
    const std::size_t size = std::min(piece.size, room);
    bytes.append(static_cast<const char*>(piece.data), size);
    room -= size;
  }
  if (room == 0) network_.refused.insert(link.client_port);
  if (bytes.empty()) return 0;
  stream.took_at = network_.now();
  if (!link.client_open) {
    network_.SendReset(link, true);
    return bytes.size();
  }
  link.down.Push(bytes, network_.Soon());
  if (Strikes(Bug::kRepeatsAByte)) link.down.Push(bytes.substr(bytes.size() - 1), network_.now());
  return bytes.size();
}

// ---- Waiting.

bool SimPort::Ready() {
  Produce();
  return !postings_.empty() || std::any_of(made_.begin(), made_.end(), [&](const Made& made) {
    return made.at <= network_.now() && MayBring(made.completion);
  });
}

// The last accept is really the last; a test may want something to be late.
bool SimPort::MayBring(const Completion& completion) const {
  if (network_.held_back && network_.held_back(completion)) return false;
  if (completion.operation != Operation::kAccept || !completion.last) return true;
  return std::none_of(made_.begin(), made_.end(), [&](const Made& other) {
    return other.completion.socket == completion.socket && !other.completion.last && !other.brought;
  });
}

std::size_t SimPort::Wait(Completion* batch, std::size_t capacity, std::size_t max_bytes,
                          TimePoint deadline) {
  pool_may_fail_ = FailingMemory::armed();
  const FailingMemory::Scope unarmed(false);
  network_.Check(open_, "Wait on a port that is not open");
  for (;;) {
    Produce();
    const std::size_t count = Bring(batch, capacity, max_bytes);
    if (count > 0 || deadline <= network_.now() || !network_.settings.wait_passes_time) {
      return count;
    }
    const TimePoint next = std::min(deadline, network_.NextEvent());
    if (next == TimePoint::max()) {
      network_.Fail("R9: a worker sleeps for ever");
      return 0;
    }
    network_.AdvanceTo(next);
  }
}

std::size_t SimPort::Bring(Completion* batch, std::size_t capacity, std::size_t max_bytes) {
  std::size_t count = 0;
  std::size_t bytes = 0;
  bool received = false;
  // Postings and sockets take turns, so that neither keeps the other waiting.
  while (!postings_.empty() && count < (capacity + 1) / 2 &&
         !network_.choices.Chance(network_.faults.late_posting)) {
    Completion posted;
    posted.posting = postings_.front();
    batch[count++] = std::move(posted);
    postings_.pop_front();
  }
  const bool reorder = network_.choices.Chance(network_.faults.reorder);
  std::vector<std::size_t> due;
  for (std::size_t i = 0; i < made_.size(); ++i) {
    if (made_[i].at <= network_.now()) due.push_back(i);
  }
  std::vector<std::size_t> brought;
  while (!due.empty() && count < capacity) {
    const auto pick = reorder ? static_cast<std::ptrdiff_t>(network_.choices.Below(due.size())) : 0;
    const std::size_t index = due[static_cast<std::size_t>(pick)];
    due.erase(due.begin() + pick);
    Completion& completion = made_[index].completion;
    if (!MayBring(completion)) continue;
    const std::size_t size = completion.buffer.size();
    if (size > 0 && received && bytes + size > max_bytes) break;
    received = received || size > 0;
    bytes += size;
    OnBrought(completion);
    batch[count++] = std::move(completion);
    made_[index].brought = true;
    brought.push_back(index);
  }
  std::sort(brought.begin(), brought.end());
  for (auto index = brought.rbegin(); index != brought.rend(); ++index) {
    made_.erase(made_.begin() + static_cast<std::ptrdiff_t>(*index));
  }
  return count;
}

void SimPort::OnBrought(Completion& completion) {
  if (completion.operation == Operation::kBroken) return;
  if (completion.operation == Operation::kAccept) {
    if (completion.last) {
      ListeningOn(*completion.socket)->brought = true;
      return;
    }
    ++(completion.error ? reported_.accept_errors : reported_.accepts);
    return;
  }
  Stream* stream = Known(*completion.socket, "a completion");
  if (stream == nullptr) return;
  if (completion.operation == Operation::kSend) {
    stream->pieces.clear();
    reported_.sent_bytes += completion.bytes;
    return;
  }
  --stream->undelivered;
  if (completion.buffer.size() > 0) {
    stream->heard = true;
    stream->heard_at = network_.now();
  }
  reported_.received_bytes += completion.buffer.size();
  if (stream->ended && stream->undelivered == 0) stream->receiving = false;
  PostReads(*stream);
}

TimePoint SimPort::NextReady() const {
  TimePoint next = TimePoint::max();
  for (const Made& made : made_) next = std::min(next, made.at);
  return next;
}

}  // namespace iocp::sim
