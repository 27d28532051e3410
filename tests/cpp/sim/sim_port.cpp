#include "sim_port.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "memory.h"

namespace iocp::sim {

Error SimPort::Failure(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kReset:
      return {kind, ECONNRESET};
    case ErrorKind::kCancelled:
      return {kind, ECANCELED};
    case ErrorKind::kClientGone:
      return {kind, ECONNABORTED};
    case ErrorKind::kOutOfResources:
      return {kind, EMFILE};
    case ErrorKind::kOther:
      return {kind, EIO};
    default:
      return {kind, 0};
  }
}

SimPort::SimPort(Network& network, const PortOptions& options)
    : network_(network), options_(options) {
  network_.ports.push_back(this);
}

SimPort::~SimPort() {
  network_.Check(streams_.empty(), "R10: a port is destroyed with a socket open");
  network_.Check(listening_.empty(), "R10: a port is destroyed while it accepts");
  for (const Posting* posting : postings_) {
    network_.Check(posting->tag == 0, "R10: a port is destroyed with a posting that matters");
  }
  if (open_) --network_.open_ports;
  std::erase(network_.ports, this);
}

Error SimPort::Open() {
  if (network_.exhausted) return Failure(ErrorKind::kOutOfResources);
  if (!std::exchange(open_, true)) ++network_.open_ports;
  return {};
}

// ---- Calls.

SimPort::Stream* SimPort::Known(const Socket& socket, const char* call) {
  for (const auto& stream : streams_) {
    if (stream->socket == &socket) return stream.get();
  }
  network_.Fail(std::string(call) + " of a socket that is not this port's");
  return nullptr;
}

SimPort::Listening* SimPort::ListeningOn(const Socket& socket) {
  for (const auto& listening : listening_) {
    if (listening->socket == &socket) return listening.get();
  }
  return nullptr;
}

Error SimPort::Accept(Socket& listener) {
  const FailingMemory::Scope unarmed(false);
  network_.Check(ListeningOn(listener) == nullptr, "R1: Accept twice");
  if (network_.BacklogOf(listener.handle) == nullptr) return Failure(ErrorKind::kInvalidArgument);
  if (network_.Fails(network_.faults.accept_exhausted)) {
    ++reported_.accept_errors;
    return Failure(ErrorKind::kOutOfResources);
  }
  network_.BeginAccepting(listener.handle);
  listening_.push_back(std::make_unique<Listening>());
  listening_.back()->socket = &listener;
  if (broken_) EndAccept(*listening_.back(), ErrorKind::kOther);
  return {};
}

Error SimPort::Adopt(Socket& socket, NativeSocket handle, Address* local, Address* remote) {
  const FailingMemory::Scope unarmed(false);
  LinkPtr link = network_.LinkOf(handle);
  network_.Check(link != nullptr, "Adopt of no connection");
  if (link == nullptr) return Failure(ErrorKind::kOther);
  if (network_.Fails(network_.faults.adopt_error)) {
    ++reported_.accept_errors;
    return Failure(ErrorKind::kReset);
  }
  socket.handle = handle;
  *local = link->server;
  *remote = link->server;
  remote->port = link->client_port;
  streams_.push_back(std::make_unique<Stream>());
  streams_.back()->socket = &socket;
  streams_.back()->link = std::move(link);
  streams_.back()->adopted_at = network_.now();
  return {};
}

void SimPort::Receive(Socket& socket) {
  const FailingMemory::Scope unarmed(false);
  Stream* stream = Known(socket, "Receive");
  if (stream == nullptr) return;
  network_.Check(stream->next_read == 0, "Receive twice");
  stream->receiving = true;
  stream->heard_at = network_.now();
  PostReads(*stream);
  if (broken_) EndReads(*stream, ErrorKind::kOther);
}

void SimPort::PostReads(Stream& stream) {
  const auto most = static_cast<std::size_t>(std::max(network_.settings.reads, 1));
  while (!stream.ended && !stream.paused && stream.reads.size() + stream.undelivered < most) {
    stream.reads.push_back(stream.next_read++);
  }
}

void SimPort::Pause(Socket& socket) {
  const FailingMemory::Scope unarmed(false);
  if (Listening* listening = ListeningOn(socket)) {
    listening->paused = true;
  } else if (Stream* stream = Known(socket, "Pause")) {
    stream->paused = true;  // nobody else moves: the caller may hold a lock
  }
}

void SimPort::Resume(Socket& socket) {
  const FailingMemory::Scope unarmed(false);
  if (Listening* listening = ListeningOn(socket)) {
    listening->paused = false;
    listening->exhausted = false;
  } else if (Stream* stream = Known(socket, "Resume")) {
    stream->paused = false;
    PostReads(*stream);
    network_.yield();
  }
}

void SimPort::Send(Socket& socket, const Piece* pieces, std::size_t count) {
  const FailingMemory::Scope unarmed(false);
  Stream* stream = Known(socket, "Send");
  if (stream == nullptr) return;
  TakePieces(*stream, pieces, count);
  stream->sending = true;
  stream->took_at = network_.now();
  network_.yield();
}

void SimPort::TakePieces(Stream& stream, const Piece* pieces, std::size_t count) {
  network_.Check(stream.pieces.empty(), "R4: two sends at once");
  network_.Check(count >= 1 && count <= kMaxPieces, "Send of so many pieces");
  network_.Check(!stream.link->down.ended(), "Send behind the end of the stream");
  stream.pieces.assign(pieces, pieces + count);
  for (const Piece& piece : stream.pieces) network_.Check(piece.size > 0, "an empty piece");
}

std::size_t SimPort::SendNow(Socket& socket, const Piece* pieces, std::size_t count) {
  const FailingMemory::Scope unarmed(false);
  Stream* stream = Known(socket, "SendNow");
  if (stream == nullptr) return 0;
  TakePieces(*stream, pieces, count);
  std::size_t taken = 0;
  if (broken_ || network_.ResetArrived(*stream->link, true)) {
    network_.refused.insert(stream->link->client_port);
  } else {
    taken = Transmit(*stream, 0);
  }
  stream->pieces.clear();
  ++network_.sent_now;
  reported_.sent_bytes += taken;
  // Nobody else moves: the caller may be in a send, whose place is taken when it returns.
  network_.Note("send now", stream->link->client_port, taken);
  return taken;
}

void SimPort::ShutdownSend(Socket& socket) {
  const FailingMemory::Scope unarmed(false);
  Stream* stream = Known(socket, "ShutdownSend");
  if (stream == nullptr) return;
  network_.Note("end stream", stream->link->client_port);
  network_.Check(stream->pieces.empty(), "ShutdownSend while a send is in flight");
  stream->link->down.End(network_.Soon());
  stream->link->server_shut = true;
  network_.yield();
}

void SimPort::Cancel(Socket& socket) {
  const FailingMemory::Scope unarmed(false);
  if (Listening* listening = ListeningOn(socket)) {
    EndAccept(*listening, ErrorKind::kCancelled);
    return;
  }
  Stream* stream = Known(socket, "Cancel");
  if (stream == nullptr) return;
  network_.Note("cancel", stream->link->client_port);
  network_.given_up[stream->link->client_port] = {
      network_.now(),  stream->heard_at,
      stream->heard,   stream->receiving && !stream->paused && HasArrived(*stream),
      stream->took_at, stream->sending && HasRoom(*stream)};
  // The system may have been about to complete what is cancelled.
  if (network_.Fails(network_.faults.late_cancel)) {
    if (stream->receiving) ProduceReads(*stream);
    if (stream->sending) ProduceSend(*stream);
  }
  if (stream->receiving && !stream->ended) EndReads(*stream, ErrorKind::kCancelled);
  if (stream->sending) {
    stream->sending = false;
    Completion completion;
    completion.operation = Operation::kSend;
    completion.error = Failure(ErrorKind::kCancelled);
    completion.socket = stream->socket;
    Make(std::move(completion));
  }
  network_.yield();
}

bool SimPort::ReceiveAtHand(Socket& socket, std::uint64_t seen) {
  const FailingMemory::Scope unarmed(false);
  Stream* stream = Known(socket, "ReceiveAtHand");
  if (stream == nullptr) return false;
  // The last completion may be on its way through another worker.
  const bool unseen = stream->next_read - stream->reads.size() != seen;
  network_.Check(stream->receiving || unseen, "R12: nothing is received");
  return unseen || HasArrived(*stream);
}

std::optional<TimePoint> SimPort::SilentSince(std::uint16_t client_port) {
  for (const auto& stream : streams_) {
    if (stream->link->client_port != client_port) continue;
    if (!stream->receiving || stream->undelivered != 0 || HasArrived(*stream)) break;
    return stream->heard_at;
  }
  return std::nullopt;
}

std::optional<TimePoint> Network::SilentSince(std::uint16_t client_port) {
  for (SimPort* port : ports) {
    if (const auto since = port->SilentSince(client_port)) return since;
  }
  return std::nullopt;
}

bool SimPort::HasArrived(Stream& stream) {
  Link& link = *stream.link;
  return !link.up.Arrived(network_.now()).empty() || link.up.AtEnd(network_.now()) ||
         network_.ResetArrived(link, true);
}

bool SimPort::SendAtHand(Socket& socket) {
  const FailingMemory::Scope unarmed(false);
  Stream* stream = Known(socket, "SendAtHand");
  return stream != nullptr && (!stream->sending || HasRoom(*stream));
}

bool SimPort::HasRoom(const Stream& stream) {
  Link& link = *stream.link;
  return !link.client_open || link.down.Space() > 0 || network_.ResetArrived(link, true);
}

std::size_t SimPort::Unacknowledged(Socket& socket) {
  const FailingMemory::Scope unarmed(false);
  Stream* stream = Known(socket, "Unacknowledged");
  return stream == nullptr ? 0 : stream->link->down.Unacknowledged(network_.now());
}

void SimPort::Close(Socket& socket, bool reset) {
  const FailingMemory::Scope unarmed(false);
  const NativeSocket handle = std::exchange(socket.handle, kNoSocket);
  if (const Listening* listening = ListeningOn(socket)) {
    network_.Check(listening->brought, "R6: the listener still accepts");
    network_.EndAccepting(handle);
    std::erase_if(listening_, [&](const auto& other) { return other.get() == listening; });
    return;
  }
  Stream* stream = Known(socket, "Close");
  if (stream == nullptr) return;
  network_.Note(reset ? "reset socket" : "close socket", stream->link->client_port);
  network_.Check(!stream->receiving, "R6: Close with a receive in flight");
  network_.Check(stream->pieces.empty(), "R6: Close with a send in flight");
  if (!Strikes(Bug::kLeavesASocketOpen)) network_.CloseConnection(handle, reset);
  std::erase_if(streams_, [&](const auto& other) { return other.get() == stream; });
  network_.yield();
}

void SimPort::Discard(NativeSocket handle, bool reset) {
  const FailingMemory::Scope unarmed(false);
  for (const auto& stream : streams_) {
    network_.Check(stream->socket->handle != handle, "Discard of a socket that was adopted");
  }
  network_.CloseConnection(handle, reset);
}

void SimPort::Post(Posting& posting) {
  const FailingMemory::Scope unarmed(false);
  network_.Check(std::find(postings_.begin(), postings_.end(), &posting) == postings_.end(),
                 "R5: posted while it is posted");
  if (Strikes(Bug::kForgetsAWakeUp)) return;
  postings_.push_back(&posting);
}

void SimPort::Break() {
  if (std::exchange(broken_, true)) return;
  ++network_.broken_ports;
  network_.Note("broken port");
  Completion report;
  report.operation = Operation::kBroken;
  report.error = Failure(ErrorKind::kOther);
  Make(std::move(report));
  for (const auto& listening : listening_) EndAccept(*listening, ErrorKind::kOther);
  for (const auto& stream : streams_) {
    if (stream->receiving && !stream->ended) EndReads(*stream, ErrorKind::kOther);
    if (stream->sending) ProduceSend(*stream);
  }
}

int SimPort::pending_accepts() const {
  const auto accepting =
      std::count_if(listening_.begin(), listening_.end(),
                    [this](const auto& listening) { return Accepts(*listening); });
  return static_cast<int>(accepting) * options_.initial_accepts;
}

bool SimPort::Accepts(const Listening& listening) const {
  return !listening.paused && !listening.exhausted && !listening.ended;
}

}  // namespace iocp::sim
