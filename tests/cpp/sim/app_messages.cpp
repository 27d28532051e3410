// The handler of a simulated run: messages, and what programs do with framings.
#include <algorithm>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "app.h"
#include "app_scopes.h"
#include "memory.h"
#include "session/broadcast.h"
#include "session/session.h"

namespace iocp::sim {
namespace {

// The memory that a connection may take beside its bytes.
constexpr std::size_t kMostBeside = 64 * 1024;
// The memory of a send beside its bytes.
constexpr std::size_t kMostRecord = 256;

}  // namespace

// ---- Hooks.

void App::OnMessage(Connection& connection, Message& message) {
  const FailingMemory::Scope unarmed(false);
  Check(!lists, "one message, and lists are wanted");
  TakeMessages(connection, {&message, 1});
}

void App::OnMessages(Connection& connection, std::span<Message> messages) {
  const FailingMemory::Scope unarmed(false);
  Check(lists, "a list of messages, and nobody wants one");
  Check(!messages.empty() && messages.size() <= 4096, "a list of none, or of too many");
  TakeMessages(connection, messages);
}

void App::TakeMessages(Connection& connection, std::span<Message> messages) {
  Known& known = Of(connection);
  const HookScope scope(*this, known, "messages", messages.size());
  messages_ += messages.size();
  Check(known.messages != nullptr, "a message in a run without framings");
  if (known.messages == nullptr) return;
  MessagesOracle& oracle = *known.messages;
  Check(!known.closed && !known.errored && !known.ended, "a message behind the end");
  Check(!known.ended_here, "a message after close");
  Check(!known.paused, "a message while paused");
  Check(connection.framing() == (oracle.framing() ? oracle.framing()->framing() : nullptr),
        "the framing is not the one that was set");
  std::vector<std::string> expected;
  for (std::size_t i = 0; i < messages.size(); ++i) expected.push_back(oracle.Take());
  Check(known.account->delivered <= connection.bytes_received(),
        "messages of more bytes than were received");
  const struct InHook {
    MessagesOracle& oracle;
    ~InHook() { oracle.in_hook = false; }
  } in_hook{oracle};
  oracle.in_hook = true;
  for (std::size_t i = 0; i < messages.size(); ++i) LookAt(messages[i], expected[i]);
  const Script& script = *known.account->script;
  const std::size_t part = script.PartAt(known.account->delivered);
  if (part != 0 && known.account->delivered == script.parts[part - 1].end &&
      choices().Chance(0.9)) {
    SetFraming(known, script.parts[part].framing);
  }
  Act(known, true);
  // Others have moved meanwhile.
  const std::size_t again = choices().Below(messages.size());
  Check(messages[again].size() != expected[again].size() || choices().Chance(0.5) ||
            messages[again].view() == expected[again],
        "a message changes while its hook runs");
}

void App::LookAt(Message& message, const std::string& expected) {
  if (message.size() != expected.size()) {
    network_.Fail("a message has another length than the one that was sent");
    return;
  }
  std::string bytes(message.size(), '\0');
  Buffer shared;
  try {
    const FailingMemory::Scope armed(true);
    switch (choices().Below(3)) {
      case 0:
        bytes = message.view();
        break;
      case 1:
        message.CopyTo(bytes.data());
        break;
      default:
        shared = message.Share();
        bytes = shared.view();
        break;
    }
  } catch (...) {
    ++thrown_;
    throw;
  }
  Check(bytes == expected, "a message is not the one that was sent");
  if (shared.size() != 0 && choices().Chance(0.5)) KeepMessage(std::move(shared), bytes);
}

// Those that were kept for long are let go, unchanged.
void App::KeepMessage(Buffer&& buffer, const std::string& bytes) {
  constexpr std::size_t kMostKept = 8;
  const bool adds = buffer.size() != 0;
  if (adds) kept_messages_.push_back({std::move(buffer), bytes});
  if (adds && kept_messages_.size() <= kMostKept) return;
  const KeptMessage& oldest = kept_messages_.front();
  Check(oldest.buffer.view() == oldest.bytes, "the bytes of a message have changed after its hook");
  kept_messages_.pop_front();
}

// ---- The work of hooks, and programs.

void App::ActOnMessages(Known& known) {
  const std::uint64_t what = choices().Below(100);
  if (what < 70) {
    SendMessages(known);
  } else if (what < 85) {
    BroadcastMessage();
  } else {
    SwitchFraming(known);
  }
}

void App::SwitchFraming(Known& known) {
  const MessagesOracle& oracle = *known.messages;
  if (!oracle.SwitchIsClear()) return;
  const FramingModel* framing = nullptr;
  const std::uint64_t what = choices().Below(10);
  if (what < 5) {
    const Script& script = *known.account->script;
    framing = script.parts[script.PartAt(known.account->delivered)].framing;
  } else if (what < 8) {
    framing = framings[choices().Below(framings.size())].get();
  }
  SetFraming(known, framing);
}

void App::SetFraming(Known& known, const FramingModel* framing) {
  Connection& connection = *known.connection;
  network_.Note("framing", connection.remote_address().port,
                framing != nullptr ? framing->max_size() : 0);
  known.messages->Set(framing, connection.is_open());
  const FramingPtr value = framing != nullptr ? framing->framing() : nullptr;
  connection.SetFraming(value);
  Check(connection.framing() == value, "the framing is not the one that was set");
}

void App::SendMessages(Known& known) {
  Connection& connection = *known.connection;
  const FramingModel* const framing = known.messages->framing();
  LookForAFall(known);
  const std::size_t count = choices().Chance(0.5) ? 1 : choices().Below(12);
  std::vector<Loan*> loans;
  std::vector<SharedBytes> messages;
  std::vector<std::string> copied(count);
  std::string frames;
  bool carries = true;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t size =
        choices().Chance(0.1) ? 0 : choices().Size(choices().Chance(0.05) ? 50'000 : 1500);
    std::string message =
        framing != nullptr ? framing->DrawMessage(choices(), size) : DrawBytes(choices(), size);
    const auto frame = framing != nullptr ? framing->FrameOf(message) : std::nullopt;
    carries = carries && frame;
    frames += frame.value_or("");
    if (count != 1 && choices().Chance(0.3)) {
      loans.push_back(new Loan{this, std::move(message)});
      const std::string& bytes = loans.back()->bytes;
      messages.push_back({bytes.data(), bytes.size(), &Loan::Release, loans.back()});
    } else {
      copied[i] = std::move(message);
      messages.push_back({copied[i].data(), copied[i].size()});
    }
  }
  loans_ += loans.size();
  const auto take_back = [&] {
    loans_ -= loans.size();
    for (Loan* const loan : loans) delete loan;
    TakeBack(known, frames.size());
  };
  const Attempt attempt{frames.size(), network_.sent_now, known.closed,
                        frames.size() + (count + loans.size() + 1) * 2 * kMostRecord};
  known.unwritten.push_back(frames.size());
  known.account->Accept(frames);
  SendResult result{};
  const struct Sends {
    bool& sends;
    ~Sends() { sends = false; }
  } sends{sends_messages_};
  sends_messages_ = true;
  try {
    const FailingMemory::Scope armed(true);
    result = count == 1 ? connection.SendAsMessage(copied[0]) : connection.SendMessages(messages);
  } catch (const std::invalid_argument&) {
    Check(framing != nullptr && !carries, "a message is refused that the framing can carry");
    return take_back();
  } catch (const std::logic_error&) {
    Check(framing == nullptr, "messages are refused, and there is a framing");
    return take_back();
  } catch (...) {
    take_back();
    ++thrown_;
    throw;
  }
  Check(result == SendResult::kClosed || (framing != nullptr && carries),
        "a message is sent that the framing cannot carry");
  if (result == SendResult::kBacklogFull) ++refused_;
  if (result != SendResult::kAccepted) {
    loans_ -= loans.size();
    for (Loan* const loan : loans) delete loan;
  }
  AfterSend(known, result, attempt);
}

// To some or all, one by one, so that it is known who has accepted it.
void App::BroadcastMessage() {
  const std::size_t size = choices().Size(choices().Chance(0.1) ? 20'000 : 300);
  const std::string message =
      framings[choices().Below(framings.size())]->DrawMessage(choices(), size);
  MessageBroadcast broadcast(message);
  const std::vector<Known*> all = living_;
  for (Known* const known : all) {
    if (!known->connection || choices().Chance(0.3)) continue;
    const FramingModel* const framing = known->messages->framing();
    const auto frame = framing != nullptr ? framing->FrameOf(message) : std::nullopt;
    const std::string bytes = frame.value_or("");
    const bool was_open = known->connection->is_open();
    LookForAFall(*known);
    const Attempt attempt{bytes.size(), network_.sent_now, known->closed};
    known->unwritten.push_back(bytes.size());
    known->account->Accept(bytes);
    std::vector<ConnectionPtr> to{known->connection};
    std::size_t accepted = 0;
    try {
      const FailingMemory::Scope armed(true);
      accepted = broadcast.SendToEach(to);
    } catch (const std::invalid_argument&) {
      Check(framing != nullptr && !frame, "a broadcast is refused that the framing can carry");
      TakeBack(*known, bytes.size());
      continue;
    } catch (...) {
      TakeBack(*known, bytes.size());
      ++thrown_;
      throw;
    }
    Check(accepted == 0 || frame, "a broadcast is sent that the framing cannot carry");
    Check(accepted + to.size() == (was_open && framing != nullptr ? 1U : 0U),
          "a broadcast is neither sent nor skipped");
    skipped_ += to.size();
    AfterSend(*known,
              accepted != 0 ? SendResult::kAccepted
              : to.empty()  ? SendResult::kClosed
                            : SendResult::kBacklogFull,
              attempt);
  }
}

std::string App::Sendable(const Account& account, std::size_t size) const {
  if (account.script != nullptr) {
    // Who gets lists, or bytes as they come, would get more than one part at once.
    const Script& script = *account.script;
    const Script::Part& part = script.parts[script.PartAt(account.delivered)];
    if (lists || part.framing == nullptr) {
      const std::uint64_t end = std::max<std::uint64_t>(part.end, account.client_sent);
      size = std::min(size, static_cast<std::size_t>(end - account.client_sent));
    }
  }
  return account.UpAt(account.client_sent, size);
}

// ---- Oracles.

bool App::Congested(const Known& known) const {
  const Session& session = Session::Of(*known.connection);
  return session.inbound().Congested(session.outbound().charge(), engine->options());
}

void App::CheckMessages() {
  for (const Known* known : living_) {
    if (!known->connection || !known->messages || known->ended_here) continue;
    const Session& session = Session::Of(*known->connection);
    if (session.phase() != Phase::kOpen || !known->connection->is_open()) continue;
    const std::uint64_t received = known->connection->bytes_received();
    const bool due = known->messages->CutIsDue(received);
    if (known->paused || Congested(*known)) {
      Check(!due || session.inbound().port_paused() || !session.inbound().in_flight(),
            "messages wait, and the port is not paused");
      continue;
    }
    Check(!due, "a message, or what can be none, waits for nothing");
    const std::uint64_t inside = known->messages->Inside(received);
    const std::uint64_t kept = session.cutter() != nullptr ? session.cutter()->kept() : 0;
    Check(kept == inside, "what is kept of a message is not what has come of it");
    Check(!session.inbound().ended_in_order() || inside == 0,
          "the stream has ended inside a message, and nobody says so");
  }
}

void App::CheckKept() {
  for (const Known* known : living_) {
    if (!known->connection) continue;
    const MessageCutter* const cutter = Session::Of(*known->connection).cutter();
    if (cutter == nullptr) continue;
    Check(cutter->memory() <= cutter->kept() + kMostBeside,
          "what is kept of a message takes more memory than its bytes");
    Check(cutter->kept() <= known->connection->bytes_received(), "more is kept than was received");
  }
}

}  // namespace iocp::sim
