// The clients of a simulated run: what they do, and the oracles of what they see.
#include <memory>
#include <string>
#include <utility>

#include "simulation_run.h"

namespace iocp::sim {

void Simulation::Dial() {
  const auto& listeners = engine_->listeners();
  LinkPtr link = network_.Connect(listeners[choices_.Below(listeners.size())]->address());
  if (link == nullptr) return;
  const std::uint16_t port = link->client_port;
  auto client = std::make_unique<Client>();
  client->link = link;
  client->peer = std::make_unique<SimPeer>(network_, std::move(link));
  client->account = &accounts_.try_emplace(port, port).first->second;
  if (tls_ != nullptr) {
    const TlsHabits habits = DrawTlsHabits();
    auto tls = tls_->Connect(std::move(client->peer), habits);
    client->tls = tls.get();
    client->peer = std::move(tls);
    client->account->tls_faulty = habits.faulty();
  }
  for (std::size_t i = 0; i < stages_; ++i) {
    auto stage = std::make_unique<testing::ScrambledPeer>(std::move(client->peer));
    client->stages.push_back(stage.get());
    client->peer = std::move(stage);
  }
  client->to_send = choices_.Chance(0.2) ? 0 : choices_.Size(20'000);
  if (!app_.framings.empty()) {
    const std::size_t size = choices_.Chance(0.05) ? choices_.Size(300'000) : client->to_send;
    client->account->script = std::make_unique<const Script>(
        Script::Draw(choices_, app_.framings, app_.first_framing, size));
    client->to_send = client->account->script->bytes.size();
  }
  client->reads = choices_.OneOf({0.0, 0.3, 0.9});
  client->ends = choices_.OneOf({0.0, 0.02, 0.2});
  client->closes = choices_.OneOf({0.0, 0.0, 0.05});
  client->resets = choices_.OneOf({0.0, 0.0, 0.05});
  client->breaks = app_.staged ? choices_.OneOf({0.0, 0.0, 0.02}) : 0.0;
  network_.Note("dial", port, client->to_send);
  clients_.push_back(std::move(client));
}

void Simulation::MoveClient(Client& client) {
  if (client.done) return;
  Account& account = *client.account;
  if (client.tls != nullptr && !client.tls->connected() && choices_.Chance(0.8)) client.tls->Step();
  if (!account.client_ended && account.client_sent < client.to_send) {
    const std::size_t size = choices_.Size(client.to_send - account.client_sent);
    account.client_sent += client.peer->Send(app_.Sendable(account, size));
  }
  if (choices_.Chance(client.reads)) Read(client, choices_.Size(65'536));
  if (client.done) return;
  if (client.breaks != 0 && choices_.Chance(client.breaks)) Break(client);
  if (choices_.Chance(client.ends)) {
    network_.Note("client ends", client.peer->port(), account.client_sent);
    EndStream(client);
  }
  if (choices_.Chance(client.closes)) {
    network_.Note("client closes", client.peer->port(), account.client_sent);
    account.client_ended = true;
    client.peer->Close();
    client.done = true;
  } else if (choices_.Chance(client.resets)) {
    network_.Note("client resets", client.peer->port(), account.client_sent);
    account.client_reset = true;
    client.peer->Reset();
    client.done = true;
  }
}

void Simulation::EndStream(Client& client) {
  client.account->client_ended = true;
  client.peer->EndStream();
  if (client.tls != nullptr) client.account->tls_said_end = client.tls->said_end();
}

// Half of them do nothing wrong.
TlsHabits Simulation::DrawTlsHabits() {
  TlsHabits habits;
  habits.tls12 = choices_.Chance(0.3);
  habits.resumes = choices_.Chance(0.5);
  switch (choices_.Below(8)) {
    case 0:
      habits.silent_from = choices_.Chance(0.5) ? choices_.Below(700) : choices_.Size(20'000);
      break;
    case 1:
      habits.changed_byte = choices_.Chance(0.5) ? choices_.Below(700) : choices_.Size(20'000);
      break;
    case 2:
      habits.distrusts = choices_.Chance(0.3);
      break;
    default:
      break;
  }
  return habits;
}

void Simulation::BreakTls(Client& client) {
  // The server's bound is 100 messages in a second that are not data; the end of TLS is one.
  constexpr std::size_t kMostKeyUpdates = 90;
  if (choices_.Chance(0.3)) {
    network_.Note("client cuts TLS off", client.peer->port(), 0);
    client.account->client_ended = true;
    client.tls->Truncate();
    return;
  }
  const std::size_t count = choices_.OneOf<std::size_t>({1, 1, 3, 10, 40});
  if (client.key_updates + count > kMostKeyUpdates) client.account->tls_faulty = true;
  if (!client.tls->UpdateKeys(count)) return;
  client.key_updates += count;
  network_.Note("client updates keys", client.peer->port(), count);
}

// Bytes that it sends then may never be seen.
void Simulation::Break(Client& client) {
  if (client.stages.empty() || (client.tls != nullptr && choices_.Chance(0.7))) {
    BreakTls(client);
    return;
  }
  testing::ScrambledPeer& stage = *client.stages[choices_.Below(client.stages.size())];
  network_.Note("client breaks a stage", stage.port(), 0);
  if (choices_.Chance(0.5)) {
    stage.Poison();
  } else {
    stage.Truncate();
    client.account->client_ended = true;
  }
}

void Simulation::Read(Client& client, std::size_t most) {
  Account& account = *client.account;
  const std::string bytes = client.peer->Receive(most);
  network_.Check(account.DownIs(account.client_received, bytes), "a client receives wrong bytes");
  account.client_received += bytes.size();
  network_.Check(account.client_received <= account.accepted,
                 "a client receives more than was sent");
  if (client.tls != nullptr) CheckTls(client);
  if (client.done) return;
  if (client.peer->state() == Peer::State::kOpen) return;
  const bool in_order = client.peer->state() == Peer::State::kEnded;
  network_.Note(in_order ? "client sees the end" : "client sees a reset", client.peer->port(),
                account.client_received);
  if (in_order) {
    network_.Check(account.client_received == account.accepted,
                   "a client sees the end of the stream before all that was sent");
    account.client_ended = true;
  }
  client.peer->Close();
  client.done = true;
}

// Oracles: all that the server sends is TLS, and ends so. A client that cannot go on closes.
void Simulation::CheckTls(Client& client) {
  // OpenSSL's number for the first reason that is an alert of the peer.
  constexpr int kFirstAlert = 1000;
  Account& account = *client.account;
  const int failure = client.tls->failure();
  if (failure != 0) {
    // Without memory a record may be missing.
    const bool excused = account.tls_faulty || lacked_memory_;
    network_.Check(excused, failure >= kFirstAlert ? "a client of TLS is refused"
                                                   : "a client of TLS gets what is none");
    network_.Note("client fails", client.peer->port(), static_cast<std::uint64_t>(failure));
    account.client_ended = true;
    client.peer->Close();
    client.done = true;
    return;
  }
  if (client.peer->state() != Peer::State::kReset || client.tls->heard_end()) return;
  if (network_.ResetArrived(*client.link, false)) return;
  // The stream has ended, and that of TLS has not.
  account.tls_cut = true;
  network_.Check(!account.established || !client.link->server_shut,
                 "the server ends its stream in order, and not that of TLS");
}

// Without faults: reads all there is, sends all it wants, ends its stream. False when it waits.
bool Simulation::Finish(Client& client) {
  if (client.done) return false;
  Account& account = *client.account;
  const std::uint64_t received = account.client_received;
  const std::uint64_t sent = account.client_sent;
  const std::size_t waiting = client.Waiting();
  const std::uint64_t moved = client.tls == nullptr ? 0 : client.tls->moved();
  if (!account.client_ended && account.client_sent < client.to_send) {
    const std::string bytes =
        account.UpAt(account.client_sent, client.to_send - account.client_sent);
    account.client_sent += client.peer->Send(bytes);
  }
  Read(client, 1'000'000);
  if (client.done) return true;
  if (!account.client_ended && account.client_sent == client.to_send && client.Waiting() == 0) {
    EndStream(client);
    return true;
  }
  if (client.tls != nullptr && client.tls->moved() != moved) return true;
  return received != account.client_received || sent != account.client_sent ||
         waiting != client.Waiting();
}

}  // namespace iocp::sim
