// The top of a session's stages.
#pragma once

#include <utility>

#include "iocp/buffer.h"
#include "iocp/error.h"
#include "session/owner.h"
#include "session/session.h"
#include "stage/stage_stack.h"

namespace iocp {

// Received bytes become arrivals of the owner.
class Session::ArrivalSink final : public StageStack::Sink {
 public:
  ArrivalSink(Session& session, Owner& owner) : session_(session), owner_(owner) {}

  void Deliver(Buffer bytes) override {
    owner_.arrivals().emplace_back(&session_, std::move(bytes), Error{});
  }
  void DeliverError(const Error& error) {
    if (error) owner_.arrivals().emplace_back(&session_, Buffer(), error);
  }
  void DeliverEnd() override {
    owner_.arrivals().emplace_back(&session_, Buffer(), Error{ErrorKind::kEndOfStream, 0});
  }
  [[nodiscard]] TimePoint Now() const override { return owner_.now(); }
  [[nodiscard]] SendMemory* send_memory() override { return &owner_.send_memory(); }

 private:
  Session& session_;
  Owner& owner_;
};

}  // namespace iocp
