// Two stages of TLS in memory, one at each end of a wire.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "port/world.h"
#include "stage/stage_stack.h"
#include "stage/tls/tls_report.h"
#include "stage/tls/tls_stage.h"
#include "stream/buffer_pool.h"
#include "support/certificates.h"

namespace iocp::testing {

// One end.
class TlsEnd : public StageStack::Sink {
 public:
  TlsEnd(const Tls& tls, std::size_t shard) {
    std::vector<std::unique_ptr<Stage>> stages;
    stages.push_back(MakeTlsStage(tls, shard));
    stack_ = std::make_unique<StageStack>(std::move(stages));
    Note(stack_->Begin(*this));
  }
  TlsEnd(const TlsEnd&) = delete;
  TlsEnd& operator=(const TlsEnd&) = delete;
  virtual ~TlsEnd() { stack_->Close(); }

  void Deliver(Buffer bytes) override { received += bytes.view(); }
  void DeliverEnd() override { ++ends; }
  [[nodiscard]] StageStack::TimePoint Now() const override { return now; }

  void Send(std::string_view bytes) {
    user_.Push(SendItem::Copy(&bytes, 1, nullptr));
    Note(stack_->Send(user_, *this));
  }
  void EndSend() {
    closing_ = true;
    Note(stack_->EndSend(user_, *this));
  }
  void Receive(std::string_view bytes) {
    if (!bytes.empty()) Note(stack_->Receive(BufferPool::Copy(bytes), *this));
  }
  void EndReceive() { Note(stack_->EndReceive(*this)); }
  // All that it has for the wire.
  std::string Take() {
    std::string wire;
    for (;;) {
      Note(closing_ ? stack_->EndSend(user_, *this) : stack_->Send(user_, *this));
      Piece pieces[kMaxPieces];
      const std::size_t count = stack_->Gather(pieces);
      if (count == 0) return wire;
      std::size_t size = 0;
      for (std::size_t i = 0; i < count; ++i) {
        wire.append(static_cast<const char*>(pieces[i].data), pieces[i].size);
        size += pieces[i].size;
      }
      SendQueue complete;
      user_.Advance(stack_->Sent(size, nullptr), complete);
    }
  }

  [[nodiscard]] StageStack& stack() { return *stack_; }
  [[nodiscard]] const TlsReport& report() const { return *stack_->tls(); }
  [[nodiscard]] bool ready() const { return stack_->ready(); }

  std::string received;
  int ends = 0;
  Error error;  // the first
  StageStack::TimePoint now{};

 private:
  void Note(const Error& latest) {
    if (!error) error = latest;
  }

  std::unique_ptr<StageStack> stack_;
  SendQueue user_;
  bool closing_ = false;
};

// Moves the bytes that each end has for the wire to the other, in pieces of at most `step` bytes,
// until nothing moves any more.
inline void Exchange(TlsEnd& one, TlsEnd& other, std::size_t step = std::string::npos) {
  const auto pass = [&](TlsEnd& from, TlsEnd& to) {
    const std::string wire = from.Take();
    for (std::size_t at = 0; at < wire.size(); at += std::min(step, wire.size() - at)) {
      to.Receive(std::string_view(wire).substr(at, step));
    }
    return !wire.empty();
  };
  for (;;) {
    const bool there = pass(one, other);
    const bool back = pass(other, one);
    if (!there && !back) return;
  }
}

class TlsTest : public ::testing::Test {
 protected:
  // A handshake between the two; neither of them is null then.
  void Connect(const Tls& server_tls, const Tls& client_tls, std::size_t step = std::string::npos,
               std::size_t shard = 0) {
    server = std::make_unique<TlsEnd>(server_tls, shard);
    client = std::make_unique<TlsEnd>(client_tls, shard);
    Exchange(*client, *server, step);
  }
  void Connect() {
    Connect(Tls::Server(certificates.Server()), Tls::Client(certificates.Client()));
  }

  const Certificates certificates;
  std::unique_ptr<TlsEnd> server;
  std::unique_ptr<TlsEnd> client;
};

}  // namespace iocp::testing
