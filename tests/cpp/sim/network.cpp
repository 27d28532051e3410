#include "network.h"

#include <algorithm>
#include <cstdio>
#include <utility>

namespace iocp::sim {
namespace {

Network* current = nullptr;

Address Loopback(std::uint16_t port) {
  Address address;
  address.family = Address::Family::kIPv4;
  address.port = port;
  address.bytes[0] = 127;
  address.bytes[3] = 1;
  return address;
}

}  // namespace

Faults Faults::Draw(Choices& choices) {
  const std::uint64_t kind = choices.Below(8);
  const auto draw = [&](double most) {
    if (kind == 0) return 0.0;
    if (kind == 1) return most;
    return most * choices.OneOf({0.0, 0.0, 0.01, 0.1, 0.5, 1.0});
  };
  Faults faults;
  faults.delay = draw(0.9);
  faults.reorder = draw(1.0);
  faults.short_read = draw(1.0);
  faults.short_send = draw(1.0);
  faults.reset = draw(0.02);
  faults.lost_data = draw(0.5);
  faults.send_error = draw(0.02);
  faults.late_cancel = draw(1.0);
  faults.accept_error = draw(0.3);
  faults.accept_exhausted = draw(0.3);
  faults.adopt_error = draw(0.1);
  faults.no_memory = draw(0.05);
  faults.late_posting = draw(0.5);
  faults.spurious = draw(0.2);
  faults.clock_jump = draw(0.02);
  faults.broken_port = draw(0.001);
  return faults;
}

// ---- Pipes.

std::size_t Pipe::Space() const {
  const std::size_t held = flying_bytes_ + arrived().size();
  return held < window_ ? window_ - held : 0;
}

void Pipe::Push(std::string_view bytes, TimePoint arrives) {
  // A stream keeps its order, however long each part is on its way.
  last_arrival_ = std::max(last_arrival_, arrives);
  flying_.push_back({last_arrival_, std::string(bytes)});
  flying_bytes_ += bytes.size();
}

void Pipe::End(TimePoint arrives) {
  if (std::exchange(ended_, true)) return;
  last_arrival_ = std::max(last_arrival_, arrives);
  end_arrives_ = last_arrival_;
}

std::string_view Pipe::Arrived(TimePoint now) {
  while (!flying_.empty() && flying_.front().arrives <= now && arrived().size() < receiver_takes_) {
    std::string& bytes = flying_.front().bytes;
    const std::size_t size = std::min(bytes.size(), receiver_takes_ - arrived().size());
    arrived_.append(bytes, 0, size);
    flying_bytes_ -= size;
    bytes.erase(0, size);
    if (bytes.empty()) flying_.pop_front();
  }
  return arrived();
}

void Pipe::Take(std::size_t size) {
  taken_ += size;
  if (taken_ == arrived_.size()) {
    arrived_.clear();
    taken_ = 0;
  }
}

bool Pipe::AtEnd(TimePoint now) {
  return ended_ && end_arrives_ <= now && Arrived(now).empty() && flying_.empty();
}

void Pipe::Drop() {
  flying_.clear();
  flying_bytes_ = 0;
  Take(arrived().size());
}

// ---- The network.

Network::Network(Choices& source, const Settings& how)
    : choices(source), settings(how), now_(std::chrono::hours(1)) {
  current = this;
}

Network::~Network() { current = nullptr; }

Network& Network::Current() { return *current; }

void Network::AdvanceTo(TimePoint time) { now_ = std::max(now_, time); }

TimePoint Network::NextEvent() {
  while (!events_.empty() && events_.top() <= now_) events_.pop();
  return events_.empty() ? TimePoint::max() : events_.top();
}

TimePoint Network::Soon() {
  if (!choices.Chance(faults.delay)) return now_;
  const TimePoint then = now_ + std::chrono::microseconds(choices.Size(50'000));
  Expect(then);
  return then;
}

bool Network::Fails(double probability) {
  ++could_have_failed_;
  return only_ == 0 ? choices.Chance(probability) : could_have_failed_ == only_;
}

LinkPtr Network::Connect(const Address& to) {
  for (auto& [number, handle] : handles_) {
    if (handle.link != nullptr || handle.port != to.port) continue;
    auto link = std::make_shared<Link>(next_client_port_++, settings.window);
    link->server = to;
    handle.backlog.push_back(link);
    return link;
  }
  return nullptr;
}

void Network::SendReset(Link& link, bool to_server) {
  Link::Reset& reset = to_server ? link.to_server : link.to_client;
  if (reset.arrives != TimePoint::max()) return;
  reset = {Soon(), choices.Chance(faults.lost_data)};
  if (to_server) reset_to_server.insert(link.client_port);
}

bool Network::ResetArrived(Link& link, bool at_server) {
  const Link::Reset& reset = at_server ? link.to_server : link.to_client;
  if (reset.arrives > now_) return false;
  if (reset.drops) (at_server ? link.up : link.down).Drop();
  return true;
}

NativeSocket Network::FreeNumber() const {
  NativeSocket number = 3;
  for (const auto& [taken, handle] : handles_) {
    if (taken != number) break;
    ++number;
  }
  return number;
}

NativeSocket Network::OpenListener(std::uint16_t port, Address* bound) {
  if (exhausted) return kNoSocket;
  if (port == 0) port = next_server_port_++;
  for (const auto& [number, handle] : handles_) {
    if (handle.link == nullptr && handle.port == port) return kNoSocket;
  }
  const NativeSocket number = FreeNumber();
  handles_[number].port = port;
  *bound = Loopback(port);
  return number;
}

std::size_t Network::open_connections() const {
  return static_cast<std::size_t>(std::count_if(
      handles_.begin(), handles_.end(), [](auto& entry) { return entry.second.link != nullptr; }));
}

NativeSocket Network::OpenConnection(LinkPtr link) {
  if (exhausted) return kNoSocket;
  const NativeSocket number = FreeNumber();
  handles_[number].link = std::move(link);
  return number;
}

LinkPtr Network::LinkOf(NativeSocket handle) const {
  const auto found = handles_.find(handle);
  return found == handles_.end() ? nullptr : found->second.link;
}

std::deque<LinkPtr>* Network::BacklogOf(NativeSocket listener) {
  const auto found = handles_.find(listener);
  return found == handles_.end() || found->second.link != nullptr ? nullptr
                                                                  : &found->second.backlog;
}

void Network::EndAccepting(NativeSocket listener) {
  const bool listens = BacklogOf(listener) != nullptr;
  Check(listens, "R8: a listener is closed before a port has ended accepting on it");
  if (listens) --handles_[listener].accepting;
}

void Network::CloseListener(NativeSocket handle) {
  const auto found = handles_.find(handle);
  if (found == handles_.end() || found->second.link != nullptr) {
    Fail("a listener is closed that is not open");
    return;
  }
  Check(found->second.accepting == 0, "R8: a listener is closed while a port accepts on it");
  for (const LinkPtr& link : found->second.backlog) {
    link->server_open = false;
    SendReset(*link, false);
  }
  handles_.erase(found);
}

void Network::CloseConnection(NativeSocket handle, bool reset) {
  const auto found = handles_.find(handle);
  if (found == handles_.end() || found->second.link == nullptr) {
    Fail("a connection is closed that is not open");
    return;
  }
  Link& link = *found->second.link;
  link.server_open = false;
  const auto ended = given_up.find(link.client_port);
  const bool never_spoke = ended != given_up.end() && !ended->second.heard;
  if (!reset && link.client_open && !link.up.AtEnd(now_) && !ResetArrived(link, true) &&
      !never_spoke && link.down.Unacknowledged(now_) != 0) {
    left_to_take.insert(link.client_port);
  }
  // Systems reset a connection that is closed while there is something to read.
  if (reset || link.up.anything_left()) {
    SendReset(link, false);
  } else {
    link.down.End(Soon());
  }
  handles_.erase(found);
}

void Network::Note(const char* what, std::uint64_t which, std::uint64_t how_much) {
  const auto micros =
      std::chrono::duration_cast<std::chrono::microseconds>(now_.time_since_epoch()).count();
  if (settings.log) {
    std::fprintf(stderr, "%12lld %s %llu %llu\n", static_cast<long long>(micros), what,
                 static_cast<unsigned long long>(which), static_cast<unsigned long long>(how_much));
  }
  constexpr std::uint64_t kPrime = 0x100000001b3U;
  const auto mix = [&](std::uint64_t value) { trace_ = (trace_ ^ value) * kPrime; };
  for (const char* letter = what; *letter != '\0'; ++letter) {
    mix(static_cast<std::uint64_t>(*letter));
  }
  mix(which);
  mix(how_much);
  mix(static_cast<std::uint64_t>(micros));
}

// ---- Clients.

std::size_t SimPeer::Send(std::string_view data) {
  if (!link_->client_open || link_->up.ended() || state_ == State::kReset) return 0;
  if (!link_->server_open) {
    network_.SendReset(*link_, false);
    return 0;
  }
  const std::size_t taken = std::min(data.size(), link_->up.Space());
  if (taken > 0) link_->up.Push(data.substr(0, taken), network_.Soon());
  return taken;
}

std::string SimPeer::Receive(std::size_t most) {
  if (!link_->client_open || state_ != State::kOpen) return {};
  const bool reset = network_.ResetArrived(*link_, false);
  std::string data;
  while (data.size() < most) {
    const std::string_view arrived = link_->down.Arrived(network_.now());
    if (arrived.empty()) break;
    const std::size_t size = std::min(arrived.size(), most - data.size());
    data += arrived.substr(0, size);
    link_->down.Take(size);
  }
  if (data.size() == most) return data;
  if (reset) {
    state_ = State::kReset;
  } else if (link_->down.AtEnd(network_.now())) {
    state_ = State::kEnded;
  }
  return data;
}

void SimPeer::EndStream() {
  // Behind a reset there is nothing to end.
  if (!link_->client_open || network_.ResetArrived(*link_, false)) return;
  link_->up.End(network_.Soon());
}

void SimPeer::Close() {
  if (!link_->client_open) return;
  EndStream();
  link_->client_open = false;
  if (link_->down.anything_left()) network_.SendReset(*link_, true);
}

void SimPeer::Reset() {
  if (!link_->client_open) return;
  link_->client_open = false;
  network_.SendReset(*link_, true);
}

}  // namespace iocp::sim
