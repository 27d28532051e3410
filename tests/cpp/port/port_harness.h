// The harness of the conformance suite: a world (world.h), and a driver, which plays the server for
// one port and checks every rule that it can see broken.
//
// No system header here. A further port joins with a World of its own and one
// INSTANTIATE_TEST_SUITE_P(..., ConformanceTest, ...) in a file of its own; loopback.h is the world
// of real sockets. Nothing here blocks but CompletionPort::Wait, so a simulated world needs no
// threads.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "port/completion_port.h"
#include "world.h"

namespace iocp::testing {

// The server's end of a connection, with what the port reported about it; and its peer.
struct ServerEnd : Socket {
  Address local;
  Address remote;

  bool receiving = false;
  bool cancelled = false;  // since the last operation began
  bool closed = false;
  bool keep_buffers = false;
  std::string received;  // in the order of the stream
  std::vector<Buffer> kept;
  std::size_t receives = 0;  // completions that brought data
  bool ended = false;        // the receive
  Error end;                 // of the stream, in this place
  std::uint64_t ended_at = 0;

  bool sending = false;
  std::size_t asked = 0;  // bytes of the send in flight
  std::size_t sends = 0;  // that have ended
  std::size_t sent = 0;   // bytes that the port says the system took
  Error send_error;       // of the last send
  // Sent piece by piece, until all is sent or a send fails, from PortDriver::Write on.
  std::string writing;
  std::size_t written = 0;

  // The peer's end. The bytes of peer_writing from peer_written on are sent as they fit; bytes that
  // arrive are read while peer_reads.
  std::unique_ptr<Peer> peer;
  std::string peer_writing;
  std::size_t peer_written = 0;
  bool peer_reads = true;
  std::string peer_received;

  // Completions that came before their turn; kept by the driver.
  struct Early {
    std::string bytes;
    Error error;
    bool last;
  };
  std::map<std::uint64_t, Early> early;
  std::uint64_t next_in_order = 0;

  [[nodiscard]] bool Idle() const { return !receiving && !sending; }
  [[nodiscard]] bool AllWritten() const { return !sending && written == writing.size(); }
};

// A listener, with what the port reported about it.
struct ServerListener : Socket {
  NativeSocket listening = kNoSocket;  // the handle, for closing it; kNoSocket: somebody else does
  Address bound;
  bool begun = false;  // true exactly when the port knows it
  bool accepting = false;
  bool cancelled = false;
  std::size_t accepts = 0;  // that brought a socket
};

// Room for so many clients.
class CountingGate final : public AcceptGate {
 public:
  explicit CountingGate(int clients) : room(clients) {}

  bool Enter(Socket&) override { return room > 0 && room-- > 0; }
  void Leave() override { ++room; }

  int room;
};

struct DriverOptions {
  std::size_t block_size = 64 * 1024;
  std::size_t max_free = 200;
  std::string host = "127.0.0.1";
  bool dual_stack = true;
  int max_accepts = 100;
  AcceptGate* gate = nullptr;
  bool accept = true;   // begin to accept at once
  bool adopt = true;    // else sockets wait in newcomers()
  bool receive = true;  // begin to receive on what was adopted
  std::size_t capacity = kBatchCompletions;
  std::size_t max_bytes = kBatchBytes;
};

// One port, its worker and its server. A port that breaks a rule fails the test.
class PortDriver {
 public:
  using Options = DriverOptions;

  explicit PortDriver(World& world, const Options& options = {})
      : capacity(options.capacity),
        max_bytes(options.max_bytes),
        receive(options.receive),
        adopt(options.adopt),
        world_(world),
        pool_(BufferPool::Create(options.block_size, options.max_free)) {
    PortOptions port_options;
    port_options.pool = pool_;
    port_options.initial_accepts = 4;
    port_options.max_accepts = options.max_accepts;
    port_options.gate = options.gate;
    port_options.initial_reads = world.initial_reads();
    port_ = world.kind().create(port_options);
    const Error error = port_->Open();
    EXPECT_FALSE(error) << "Open: error " << error.code;
    ListenOptions listen;
    listen.host = options.host;
    listen.dual_stack = options.dual_stack;
    Listen(listen);
    if (options.accept) Accept(listener());
  }
  PortDriver(const PortDriver&) = delete;
  PortDriver& operator=(const PortDriver&) = delete;
  ~PortDriver() { Finish(); }

  // Wait is asked for at most so much. May be changed at any time, as may what follows.
  std::size_t capacity;
  std::size_t max_bytes;
  bool receive;
  bool adopt;
  std::function<void(ServerEnd&)> on_received;  // after its `received` has grown or it has ended

  CompletionPort& port() { return *port_; }
  BufferPool& pool() { return *pool_; }
  ServerListener& listener() { return *listeners_.front(); }  // the first
  [[nodiscard]] const Address& bound() const { return listeners_.front()->bound; }
  [[nodiscard]] bool accepting() const { return listeners_.front()->accepting; }
  [[nodiscard]] const Error& broken() const { return broken_; }
  [[nodiscard]] const std::vector<Error>& accept_errors() const { return accept_errors_; }
  [[nodiscard]] std::size_t accepts() const { return accepts_; }  // that brought a socket
  std::vector<NativeSocket>& newcomers() { return newcomers_; }
  [[nodiscard]] std::size_t completions() const { return completions_; }  // of any kind
  [[nodiscard]] const std::vector<Posting*>& postings() const { return postings_; }
  [[nodiscard]] const std::vector<std::unique_ptr<ServerEnd>>& ends() const { return ends_; }

  ServerListener& Listen(const ListenOptions& listen = {}) {
    listeners_.push_back(std::make_unique<ServerListener>());
    ServerListener& listener = *listeners_.back();
    const Status status = world_.kind().listen(listen, &listener.listening, &listener.bound);
    EXPECT_TRUE(status.ok()) << status.message;
    listener.handle = listener.listening;
    return listener;
  }
  // A listener of another port, shared.
  ServerListener& Share(const ServerListener& other) {
    listeners_.push_back(std::make_unique<ServerListener>());
    listeners_.back()->handle = other.listening;
    listeners_.back()->bound = other.bound;
    return *listeners_.back();
  }
  void Accept(ServerListener& listener) {
    const Error error = port_->Accept(listener);
    EXPECT_FALSE(error) << "Accept: error " << error.code;
    listener.begun = listener.accepting = !error;
  }
  void CancelAccept() { CancelAccept(listener()); }
  void CancelAccept(ServerListener& listener) {
    listener.cancelled = true;
    port_->Cancel(listener);
  }
  // Once it has ended: the port knows it no more, and others may go on.
  void EndAccepting(ServerListener& listener) {
    if (std::exchange(listener.begun, false)) port_->Close(listener, false);
    listener.handle = kNoSocket;
  }
  // And nobody listens any more.
  void CloseListener(ServerListener& listener) {
    EndAccepting(listener);
    if (listener.listening == kNoSocket) return;
    world_.kind().close_listener(std::exchange(listener.listening, kNoSocket));
  }

  // A connected client, in the system's backlog until the port accepts it.
  std::unique_ptr<Peer> Dial() { return Dial(listener()); }
  std::unique_ptr<Peer> Dial(const ServerListener& listener) {
    auto peer = world_.Connect(listener.bound);
    if (peer == nullptr) {
      ADD_FAILURE() << "could not connect: errno " << errno;
    } else {
      // A client that has reset its connection may have had the same port.
      strangers_.erase(peer->port());
    }
    return peer;
  }
  // The server's end of it, once the port has accepted it.
  ServerEnd* Meet(std::unique_ptr<Peer> peer) {
    if (peer == nullptr) return nullptr;
    ServerEnd* end = nullptr;
    Until([&] { return (end = FindStranger(peer->port())) != nullptr; });
    if (end == nullptr) {
      ADD_FAILURE() << "the connection was not accepted";
      lost_.push_back(std::move(peer));
      return nullptr;
    }
    end->peer = std::move(peer);
    return end;
  }
  // One connection. Fatal failures cannot leave here, so it is never null: see `Broken`.
  ServerEnd& Connect() {
    ServerEnd* end = Meet(Dial());
    if (end == nullptr) {
      ends_.push_back(std::make_unique<ServerEnd>());
      end = ends_.back().get();
      end->closed = true;
      end->ended = true;
    }
    return *end;
  }
  // A socket that has been accepted and is in newcomers().
  ServerEnd* Adopt(NativeSocket handle) {
    auto end = std::make_unique<ServerEnd>();
    if (port_->Adopt(*end, handle, &end->local, &end->remote)) {
      port_->Discard(handle, true);
      return nullptr;
    }
    EXPECT_EQ(end->handle, handle);
    ends_.push_back(std::move(end));
    ServerEnd* adopted = ends_.back().get();
    strangers_[adopted->remote.port] = adopted;
    if (receive) Receive(*adopted);
    return adopted;
  }

  void Receive(ServerEnd& end) {
    end.receiving = true;
    end.cancelled = false;
    port_->Receive(end);
  }
  void Send(ServerEnd& end, const Piece* pieces, std::size_t count) {
    ASSERT_FALSE(end.sending);
    end.sending = true;
    end.cancelled = false;
    end.asked = 0;
    for (std::size_t i = 0; i < count; ++i) end.asked += pieces[i].size;
    // The pieces need to live only during the call.
    std::vector<Piece> copy(pieces, pieces + count);
    port_->Send(end, copy.data(), count);
    for (Piece& piece : copy) piece = {nullptr, ~std::size_t{0}};
  }
  void Send(ServerEnd& end, std::string_view data) {
    const Piece piece{data.data(), data.size()};
    Send(end, &piece, 1);
  }
  // All of it, in as many sends as it takes, while the driver runs.
  void Write(ServerEnd& end, const std::string& data) {
    if (end.AllWritten()) {
      end.writing.clear();
      end.written = 0;
    }
    ASSERT_FALSE(end.sending) << "bytes in flight may not move";
    end.writing += data;
    WriteOn(end);
  }
  void Cancel(ServerEnd& end) {
    end.cancelled = true;
    port_->Cancel(end);
  }
  void Close(ServerEnd& end, bool reset) {
    ASSERT_TRUE(end.Idle());
    ASSERT_FALSE(end.closed);
    end.closed = true;
    port_->Close(end, reset);
    // As if its memory were another's by now: the port may not look at it again.
    end.handle = kNoSocket;
    end.next_sequence = ~std::uint64_t{0};
    end.port_data = &end;
    end.state = 0xff;
    end.interest = 0xff;
  }
  // Cancel, wait for what it ends, close.
  void Abort(ServerEnd& end) {
    Cancel(end);
    ASSERT_TRUE(Until([&] { return end.Idle(); }));
    Close(end, true);
  }

  // One Wait, and what it brought.
  std::size_t Turn(TimePoint deadline) {
    batch_.resize(std::max(batch_.size(), capacity + 1));
    batch_[capacity] = Completion{};
    batch_[capacity].bytes = kUntouched;
    const std::size_t count = port_->Wait(batch_.data(), capacity, max_bytes, deadline);
    EXPECT_EQ(batch_[capacity].bytes, kUntouched) << "Wait wrote beyond its batch";
    EXPECT_LE(count, capacity);
    std::size_t bytes = 0;
    std::size_t receives = 0;
    for (std::size_t i = 0; i < count; ++i) {
      if (batch_[i].operation != Operation::kReceive || batch_[i].buffer.size() == 0) continue;
      ++receives;
      bytes += batch_[i].buffer.size();
    }
    if (receives > 1) {
      EXPECT_LE(bytes, max_bytes);
    }
    completions_ += count;
    for (std::size_t i = 0; i < count; ++i) {
      Handle(batch_[i]);
      batch_[i] = Completion{};
    }
    return count;
  }
  // Lets everybody work until `done`; false when that did not happen.
  template <class Done>
  bool Until(Done done) {
    // After a failure the test does not wait again and again.
    const auto patience = ::testing::Test::HasFailure() ? std::chrono::seconds(1) : kPatience;
    const TimePoint give_up = port_->Now() + patience;
    for (;;) {
      RunPeers();
      if (done()) return true;
      const TimePoint now = port_->Now();
      if (now >= give_up) return false;
      Turn(now + std::chrono::milliseconds(1));
    }
  }
  // Lets everybody work until there has been nothing to do for a while.
  bool Settle() {
    std::size_t seen = completions_;
    TimePoint quiet_since = port_->Now();
    return Until([&] {
      const TimePoint now = port_->Now();
      if (std::exchange(seen, completions_) != completions_) quiet_since = now;
      return now - quiet_since >= kQuiet;
    });
  }
  void RunPeers() {
    for (const auto& end : ends_) {
      if (end->peer == nullptr) continue;
      if (end->peer_written < end->peer_writing.size()) {
        end->peer_written +=
            end->peer->Send(std::string_view(end->peer_writing).substr(end->peer_written));
      }
      if (!end->peer_reads) continue;
      end->peer_received += end->peer->Receive(kPeerBite);
    }
  }

  // Ends all there is, destroys the port, and looks at what is left.
  void Finish() {
    if (port_ == nullptr) return;
    on_received = nullptr;
    capacity = kBatchCompletions;
    max_bytes = kBatchBytes;
    for (const auto& listener : listeners_) {
      if (listener->accepting) CancelAccept(*listener);
    }
    for (const auto& end : ends_) {
      if (!end->Idle()) Cancel(*end);
    }
    const bool idle = Until([&] {
      return std::none_of(listeners_.begin(), listeners_.end(),
                          [](const auto& listener) { return listener->accepting; }) &&
             std::all_of(ends_.begin(), ends_.end(), [](const auto& end) { return end->Idle(); });
    });
    for (const NativeSocket handle : std::exchange(newcomers_, {})) port_->Discard(handle, true);
    if (!idle) {
      ADD_FAILURE() << "operations were never ended; the port cannot be destroyed";
      (void)port_.release();  // NOLINT(bugprone-unused-return-value): on purpose
      return;
    }
    for (const auto& end : ends_) {
      if (!end->closed) Close(*end, true);
    }
    for (const auto& listener : listeners_) CloseListener(*listener);
    port_.reset();
    for (const auto& end : ends_) end->kept.clear();
    EXPECT_EQ(pool_->posted(), 0);
    EXPECT_EQ(pool_->in_use(), 0U);
    pool_->Close();
  }

 private:
  static constexpr std::size_t kUntouched = 0x5a5a5a5a;
  static constexpr std::size_t kPeerBite = 1024 * 1024;

  ServerEnd* FindStranger(std::uint16_t remote_port) {
    const auto found = strangers_.find(remote_port);
    if (found == strangers_.end()) return nullptr;
    ServerEnd* end = found->second;
    strangers_.erase(found);
    return end;
  }

  void WriteOn(ServerEnd& end) {
    if (!end.sending && end.written < end.writing.size()) {
      Send(end, std::string_view(end.writing).substr(end.written));
    }
  }

  // The end a completion is of. Null, and a failure, when there can be none of it.
  ServerEnd* EndOf(const Completion& completion) {
    for (const auto& end : ends_) {
      if (end.get() != completion.socket) continue;
      EXPECT_FALSE(end->closed) << "a completion of a closed socket";
      return end->closed ? nullptr : end.get();
    }
    ADD_FAILURE() << "a completion of no socket of this port";
    return nullptr;
  }

  void Handle(Completion& completion) {
    switch (completion.operation) {
      case Operation::kAccept:
        OnAccept(completion);
        return;
      case Operation::kReceive:
        // Looked for only where it is cheap: with very many connections, trust the pointer.
        if (auto* end = Known(completion)) OnReceive(*end, completion);
        return;
      case Operation::kSend:
        if (auto* end = Known(completion)) OnSend(*end, completion);
        return;
      case Operation::kPost:
        EXPECT_NE(completion.posting, nullptr);
        EXPECT_TRUE(completion.last);
        EXPECT_FALSE(completion.error);
        postings_.push_back(completion.posting);
        return;
      case Operation::kBroken:
        EXPECT_TRUE(completion.error);
        EXPECT_FALSE(broken_) << "a port breaks once";
        broken_ = completion.error;
        return;
    }
    ADD_FAILURE() << "a completion of no operation";
  }

  ServerEnd* Known(const Completion& completion) {
    constexpr std::size_t kMany = 64;
    if (ends_.size() <= kMany) return EndOf(completion);
    EXPECT_NE(completion.socket, nullptr);
    auto* end = static_cast<ServerEnd*>(completion.socket);
    if (end != nullptr) {
      EXPECT_FALSE(end->closed) << "a completion of a closed socket";
    }
    return end;
  }

  ServerListener* ListenerOf(const Completion& completion) {
    for (const auto& listener : listeners_) {
      if (listener.get() == completion.socket) return listener.get();
    }
    ADD_FAILURE() << "an accept of no listener of this port";
    return nullptr;
  }

  void OnAccept(const Completion& completion) {
    ServerListener* const listener = ListenerOf(completion);
    if (listener == nullptr) return;
    EXPECT_TRUE(listener->accepting) << "an accept after the last one";
    if (completion.last) {
      listener->accepting = false;
      EXPECT_TRUE(listener->cancelled || broken_) << "accepting has died";
      if (!broken_) {
        EXPECT_EQ(completion.error.kind, ErrorKind::kCancelled);
      }
      EXPECT_EQ(completion.accepted, kNoSocket);
      return;
    }
    if (completion.error) {
      EXPECT_NE(completion.error.kind, ErrorKind::kCancelled) << "and not the last";
      EXPECT_NE(completion.error.kind, ErrorKind::kEndOfStream);
      EXPECT_EQ(completion.accepted, kNoSocket);
      accept_errors_.push_back(completion.error);
      return;
    }
    EXPECT_NE(completion.accepted, kNoSocket);
    ++accepts_;
    ++listener->accepts;
    if (adopt) {
      Adopt(completion.accepted);
    } else {
      newcomers_.push_back(completion.accepted);
    }
  }

  void OnReceive(ServerEnd& end, Completion& completion) {
    EXPECT_TRUE(end.receiving) << "a receive after the last one";
    EXPECT_TRUE(!completion.last || completion.error) << "the last one brings an end";
    EXPECT_EQ(completion.error ? completion.buffer.size() == 0 : completion.buffer.size() > 0,
              true);
    EXPECT_LE(completion.buffer.size(), pool_->block_size());
    if (completion.error.kind == ErrorKind::kCancelled) {
      EXPECT_TRUE(end.cancelled);
    }
    EXPECT_GE(completion.sequence, end.next_in_order)
        << "a place in the stream for the second time";
    const bool is_new = end.early
                            .try_emplace(completion.sequence,
                                         ServerEnd::Early{std::string(completion.buffer.view()),
                                                          completion.error, completion.last})
                            .second;
    EXPECT_TRUE(is_new) << "a place in the stream for the second time";
    if (!completion.error) ++end.receives;
    if (end.keep_buffers && !completion.error) end.kept.push_back(std::move(completion.buffer));
    while (!end.early.empty() && end.early.begin()->first == end.next_in_order) {
      const ServerEnd::Early& next = end.early.begin()->second;
      // Bytes that a cancelled read was to take may come to the one behind it.
      EXPECT_TRUE(!end.end || next.error || end.cancelled) << "data behind the end";
      if (!end.end) {
        end.received += next.bytes;
        end.end = next.error;
        end.ended_at = end.next_in_order;
      }
      if (next.last) {
        end.receiving = false;
        end.ended = true;
        EXPECT_EQ(end.early.size(), 1U) << "the last one is not the last in order";
      }
      ++end.next_in_order;
      end.early.erase(end.early.begin());
    }
    if (on_received) on_received(end);
  }

  void OnSend(ServerEnd& end, const Completion& completion) {
    EXPECT_TRUE(end.sending) << "a send has ended twice";
    EXPECT_TRUE(completion.last);
    EXPECT_LE(completion.bytes, end.asked);
    end.sending = false;
    ++end.sends;
    end.sent += completion.bytes;
    end.send_error = completion.error;
    if (completion.error) {
      EXPECT_EQ(completion.bytes, 0U);
      EXPECT_NE(completion.error.kind, ErrorKind::kEndOfStream);
      if (completion.error.kind == ErrorKind::kCancelled) {
        EXPECT_TRUE(end.cancelled);
      }
      return;
    }
    EXPECT_GT(completion.bytes, 0U);
    if (end.writing.empty()) return;
    end.written += completion.bytes;
    if (!end.cancelled) WriteOn(end);
  }

  World& world_;
  BufferPool* pool_;
  std::unique_ptr<CompletionPort> port_;
  std::vector<std::unique_ptr<ServerListener>> listeners_;
  std::size_t accepts_ = 0;
  std::vector<Error> accept_errors_;
  Error broken_;  // as Wait reported it; kNone: it did not
  std::vector<NativeSocket> newcomers_;
  std::vector<std::unique_ptr<ServerEnd>> ends_;
  std::map<std::uint16_t, ServerEnd*> strangers_;  // by their peer's port, until it is met
  std::vector<std::unique_ptr<Peer>> lost_;
  std::vector<Posting*> postings_;
  std::vector<Completion> batch_;
  std::size_t completions_ = 0;
};

// Every rule of completion_port.h, over every world. A port that its world requires is not skipped.
class ConformanceTest : public ::testing::TestWithParam<WorldParam> {
 protected:
  void SetUp() override {
    world_ = GetParam().create();
    const std::string why = world_->kind().why_unavailable();
    if (!why.empty() && world_->required()) {
      FAIL() << GetParam().name << " has to work on this system, and says: " << why;
    }
    if (!why.empty()) GTEST_SKIP() << GetParam().name << ": " << why;
    descriptors_ = world_->OpenDescriptors();
  }
  void TearDown() override {
    if (world_->kind().why_unavailable().empty()) {
      EXPECT_EQ(world_->OpenDescriptors(), descriptors_) << "descriptors were left behind";
    }
  }

  World& world() { return *world_; }
  [[nodiscard]] bool real() const { return world_->real(); }

 private:
  std::unique_ptr<World> world_;
  std::size_t descriptors_ = 0;
};

}  // namespace iocp::testing
