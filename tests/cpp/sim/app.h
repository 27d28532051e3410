// The handler of a simulated run. Its hooks do whatever hooks may do, by chance, and check whatever
// a hook is promised: the grammar, the order, every byte.
#pragma once

#include <iocp/iocp.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "framing_model.h"
#include "messages_oracle.h"
#include "network.h"
#include "pattern.h"
#include "run_tls.h"
#include "timers_oracle.h"

namespace iocp::sim {

// The knowledge of both ends of a connection, by the client's port.
struct Account {
  explicit Account(std::uint64_t client_port)
      : up(client_port * 2 + 1), down(client_port * 2 + 2) {}

  const Pattern up;    // what the client sends
  const Pattern down;  // what the server sends
  // The client's.
  std::uint64_t client_sent = 0;
  std::uint64_t client_received = 0;
  bool client_ended = false;  // in order
  bool client_reset = false;
  // With TLS.
  bool tls_faulty = false;    // true exactly when the server may call what the client sends no TLS
  bool tls_said_end = false;  // true exactly when the client has ended its stream of TLS
  bool tls_cut = false;       // true exactly when it has seen the server's stream end without that
  // The server's.
  std::uint64_t accepted = 0;  // bytes that Send has taken
  std::uint64_t delivered = 0;
  bool established = false;

  // With a framing: all that the client sends, and what was accepted. Without one the patterns
  // tell.
  std::unique_ptr<const Script> script;
  std::string accepted_bytes;

  [[nodiscard]] std::string UpAt(std::uint64_t offset, std::size_t size) const {
    return script ? script->bytes.substr(offset, size) : up.At(offset, size);
  }
  [[nodiscard]] bool UpIs(std::uint64_t offset, std::string_view bytes) const {
    if (script == nullptr) return up.Is(offset, bytes);
    return std::string_view(script->bytes).substr(offset, bytes.size()) == bytes;
  }
  [[nodiscard]] bool DownIs(std::uint64_t offset, std::string_view bytes) const {
    if (script == nullptr) return down.Is(offset, bytes);
    return std::string_view(accepted_bytes).substr(offset, bytes.size()) == bytes;
  }
  // A send takes `bytes`, or has not after all.
  void Accept(std::string_view bytes) {
    accepted += bytes.size();
    if (script) accepted_bytes += bytes;
  }
  void TakeBack(std::size_t size) {
    accepted -= size;
    if (script) accepted_bytes.resize(accepted);
  }
};

class App final : public Handler {
 public:
  App(Network& network, std::map<std::uint16_t, Account>& accounts)
      : network_(network), accounts_(accounts), timers_(network) {}
  ~App() override = default;

  // Given by the run.
  Engine* engine = nullptr;
  std::function<void()> yield;  // in a hook: others may move
  double liveliness = 0.5;      // how likely a hook is to do something more
  bool staged = false;          // true exactly when connections have stages
  const RunTls* tls = nullptr;  // null: connections have no TLS
  bool tls_on_top = false;      // true exactly when they have, and no stage above it
  bool wants_writes = true;     // true exactly when it has an OnWriteCompleted
  bool wants_writable = true;   // true exactly when it has an OnConnectionWritable
  bool lists = false;           // true exactly when it has OnMessages, and not OnMessage
  FramingModels framings;       // that connections may have; none: they have none ever
  const FramingModel* first_framing = nullptr;  // of a new connection

  // Oracle: nothing that stages wait for is done late, handshakes among them. Called whenever time
  // is about to pass, and no worker has anything to do at this moment.
  void CheckStages();
  // Oracle: while no worker has anything to do, no timer is late.
  void CheckTimers() { timers_.CheckNoneIsLate(engine->stopping()); }
  // Oracle: no queue of a connection is longer than its bound.
  void CheckQueues();
  // Oracle: nobody waits for an OnConnectionWritable, at a moment when no worker has anything to
  // do.
  void CheckNobodyWaits();
  // Oracle: a connection is closed when its receive_timeout is over. Called whenever time is about
  // to pass. `at_rest`: true exactly when no worker has anything to do at this moment.
  void CheckSilence(bool at_rest);
  // Oracles: nothing that is complete waits, but while reading is blocked, and the port is paused
  // then. Called at a moment when no worker has anything to do.
  void CheckMessages();
  // Oracle: bytes that wait for the rest of a message take about their own memory.
  void CheckKept();
  // The bytes that a client may send now, at most `size` of them.
  [[nodiscard]] std::string Sendable(const Account& account, std::size_t size) const;
  // One thing that a program may do to a connection, from outside of its hooks.
  void ActFromOutside();
  void ResumeAll();
  void LetGo();  // of everything it has kept

  [[nodiscard]] std::uint64_t hooks() const { return hooks_; }
  [[nodiscard]] std::uint64_t thrown() const { return thrown_; }
  [[nodiscard]] std::uint64_t established() const { return established_; }
  [[nodiscard]] std::uint64_t refused() const { return refused_; }
  [[nodiscard]] std::uint64_t messages() const { return messages_; }
  [[nodiscard]] std::uint64_t skipped() const { return skipped_; }
  // Bytes that all connections have accepted and the system has not taken, as each one says.
  [[nodiscard]] std::uint64_t SumOfBacklogs() const;
  [[nodiscard]] std::uint64_t closed(std::size_t reason) const { return closed_[reason]; }
  [[nodiscard]] std::uint64_t handshakes_failed(std::size_t failure) const {
    return handshakes_failed_[failure];
  }
  [[nodiscard]] bool stop_requested() const { return stop_requested_; }
  // True when every connection that was reported has been reported closed, and everything given to
  // a send came back.
  [[nodiscard]] bool AllReported() const;

  void OnConnectionEstablished(Connection& connection) override;
  void OnReadCompleted(Connection& connection, Buffer& buffer) override;
  void OnMessage(Connection& connection, Message& message) override;
  void OnMessages(Connection& connection, std::span<Message> messages) override;
  void OnWriteCompleted(Connection& connection, std::size_t size) override;
  void OnConnectionWritable(Connection& connection) override;
  EndOfStream OnEndOfStream(Connection& connection) override;
  void OnConnectionError(Connection& connection, Error error) override;
  void OnConnectionClosing(Connection& connection, CloseReason reason) override;
  void OnHandshakeFailed(Connection& connection, TlsFailure failure, std::string_view why) override;
  void OnHookError(Connection& connection, Hook hook, const std::exception_ptr& error) override;
  void OnCallbackError(Connection* connection, CallKind kind,
                       const std::exception_ptr& error) override;
  void OnConnectionReleased(Connection& connection) override;
  [[nodiscard]] unsigned WantedHooks() const override {
    const unsigned messages = lists ? kHookMessages : kHookMessage;
    const unsigned handshakes = tls == nullptr ? 0U : kHookHandshakeFailed;
    return ((kHookAll & ~static_cast<unsigned>(kHookMessage)) | messages | handshakes) &
           ~(wants_writes ? 0U : static_cast<unsigned>(kHookWrite)) &
           ~(wants_writable ? 0U : static_cast<unsigned>(kHookWritable));
  }
  void OnBatchBegin() override;
  void OnBatchEnd() override;

 private:
  struct Known {
    ConnectionPtr connection;
    Account* account = nullptr;
    bool in_hook = false;    // true exactly while a hook of it runs
    bool ended = false;      // true exactly when the end of the peer's stream was reported
    TimePoint ended_at{};    // then
    bool kept_open = false;  // true exactly when it was left open then
    bool errored = false;
    bool closed = false;  // true exactly when its closing hook has begun
    bool released = false;
    bool paused = false;      // true exactly when it was last asked to pause
    bool ended_here = false;  // true exactly when we closed or aborted it
    // True exactly when its backlog was above the high mark, or a send was refused, since the last
    // OnConnectionWritable.
    bool rose = false;
    std::size_t charge_at_rise = 0;  // of its backlog
    // True exactly when the system took bytes within a send since then, maybe down to the low mark.
    bool may_have_fallen = false;
    bool fallen = false;  // true exactly when it was at the low mark since it was last above
    // As last set, or the server's.
    std::optional<Duration> idle_timeout;
    std::optional<Duration> receive_timeout;
    // Its pauses, while it was open; the last one may last: its end is max then.
    std::vector<std::pair<TimePoint, TimePoint>> pauses;
    bool was_excused = false;           // as CheckSilence last found it
    TimePoint silent_from{};            // its silence counts from here, or from a later moment
    std::deque<std::size_t> unwritten;  // sends that were accepted and not completed, by size
    std::unique_ptr<MessagesOracle> messages;  // null in a run without framings
    ErrorKind error = ErrorKind::kNone;        // that was reported
  };
  class HookScope;
  struct Loan;
  // Bytes of messages that are kept after their hook, and must not change.
  struct KeptMessage {
    Buffer buffer;
    std::string bytes;
  };

  Known& Of(Connection& connection);
  void CheckTimeOut(const Known& known, CloseReason reason);
  void CheckTlsError(const Known& known);
  void CheckTlsEnd(const Known& known, CloseReason reason);
  void SetTimeout(Known& known);
  void Pause(Known& known);
  void Resume(Known& known);
  void Act(Known& known, bool in_hook);
  void SendSome(Known& known, std::size_t size);
  // Noted before a send is tried: its size, the calls of SendNow so far, whether the connection was
  // closed. `extra`: memory beside its last piece.
  struct Attempt {
    std::size_t size;
    std::uint64_t sent_now;
    bool was_closed;
    std::size_t extra = 0;
  };
  void AfterSend(Known& known, SendResult result, const Attempt& attempt);
  // The same for what must be taken back if it throws.
  void TakeBack(Known& known, std::size_t size);
  void ActOnMessages(Known& known);
  void SendMessages(Known& known);
  void BroadcastMessage();
  void SwitchFraming(Known& known);
  void SetFraming(Known& known, const FramingModel* framing);
  void TakeMessages(Connection& connection, std::span<Message> messages);
  void LookAt(Message& message, const std::string& expected);
  void KeepMessage(Buffer&& buffer, const std::string& bytes);
  [[nodiscard]] bool Congested(const Known& known) const;
  // Schedules a callback of a connection, or of the server when `known` is null; or cancels one.
  void ActOnTimers(Known* known);
  // A callback runs: of `known`, or of the server when it is null.
  void Called(Known* known);
  void CheckMemory(Connection& connection, std::size_t extra);
  void CheckRefusal(Connection& connection);
  void LookForAFall(Known& known);
  void NoteRise(Known& known);
  void Stop();
  void Check(bool holds, const char* what) { network_.Check(holds, what); }
  Choices& choices() { return network_.choices; }

  Network& network_;
  std::map<std::uint16_t, Account>& accounts_;
  std::map<std::uint64_t, Known> known_;  // by id
  std::vector<Known*> living_;            // not closed
  std::vector<ConnectionPtr> dead_;       // handles that are kept after the end
  std::vector<Buffer> kept_;
  std::deque<KeptMessage> kept_messages_;
  TimersOracle timers_;
  TimePoint looked_at_{};  // when CheckSilence was last called
  // How often a handshake was seen to be late, kLateness apart, and when last.
  struct LateHandshake {
    TimePoint seen_at{};
    std::size_t times = 0;
  };
  std::map<std::uint64_t, LateHandshake> late_handshakes_;  // by the connection
  bool server_called_ = false;  // true exactly while a callback of the server runs
  // True exactly while SendMessages runs, which may give back what it has copied.
  bool sends_messages_ = false;
  std::size_t loans_ = 0;  // bytes lent to sends that did not come back
  int batches_ = 0;        // that are open: one for each worker in a hook
  std::uint64_t hooks_ = 0;
  std::uint64_t thrown_ = 0;
  std::uint64_t established_ = 0;
  std::uint64_t refused_ = 0;  // sends, because of a full backlog
  std::uint64_t skipped_ = 0;  // the same of broadcasts
  std::uint64_t messages_ = 0;
  std::uint64_t closed_[kCloseReasons]{};
  std::uint64_t handshakes_failed_[kTlsFailures]{};
  std::set<std::uint64_t> with_failed_handshake_;  // connections by their id
  bool stop_requested_ = false;
};

}  // namespace iocp::sim
