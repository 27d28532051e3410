// THE SEAM between a connection's bytes and its hooks: what may stand there, as TLS or framing do.
//
// Rules.
//
// S1 A session calls its stages on its owner's thread, one call at a time, with no lock held and
//    outside of batches: a stage never runs under the GIL, and must not block.
// S2 Bytes go up, from the wire to the hooks, and down. A stage sees each byte of either direction
//    once and in order, and puts what it makes of them into its Output. It may put more there, or
//    less, and in any call: so it can send by itself.
// S3 The bytes that Send takes are in the output when it returns. A send of a user is complete when
//    the system has what was made of its last byte.
// S4 A stage that is not ready gets no sends, and OnConnectionEstablished waits for it. While a
//    stage waits for the peer it gets no sends either, and EndSend is not called.
// S5 An error ends the connection: what went up before is still delivered, then the error is
//    reported. The bytes that the stage has put down are offered to the system once more, as they
//    may say why. The peer gets a reset, unless the error is kTls and the system has taken all. The
//    stage is not called again, but for Close. std::bad_alloc counts as kOutOfResources.
// S6 EndSend comes once, behind all sends, when the connection is closed in order. It adds the end
//    of the stage's own stream. A connection that breaks or is aborted goes without. The
//    bytes that the stage puts down later are dropped: nothing follows the end.
#pragma once

#include <chrono>
#include <cstddef>

#include "iocp/buffer.h"
#include "iocp/error.h"
#include "stream/piece.h"

namespace iocp {

struct TlsReport;

// One for each connection. The session owns it.
class Stage {
 public:
  // Where a stage puts what it makes. Good during the call that it is given to.
  class Output {
   public:
    Output() = default;
    Output(const Output&) = delete;
    Output& operator=(const Output&) = delete;

    // Received bytes, for the next stage or the hooks. Empty ones are left out.
    virtual void Up(Buffer bytes) = 0;
    // The peer's stream has ended in order, whatever else comes from the wire.
    virtual void EndUp() = 0;
    // Bytes to send. They are copied.
    virtual void Down(const void* data, std::size_t size) = 0;
    // The time of the turn in which the stage is called.
    [[nodiscard]] virtual std::chrono::steady_clock::time_point Now() const = 0;

   protected:
    ~Output() = default;
  };

  Stage() = default;
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;
  virtual ~Stage() = default;

  // The connection has begun. The first call.
  virtual Error Begin(Output& output) = 0;
  // The peer has sent `bytes`, never none.
  virtual Error Receive(Buffer bytes, Output& output) = 0;
  // The stream of the peer has ended in order. The end goes up by itself, unless an error says that
  // it came too early.
  virtual Error EndReceive(Output& output) = 0;
  // `pieces`, none empty, are to be sent next. Takes bytes from the front, `*taken` of them; the
  // rest comes again, with what follows it. Only called when ready, and not waiting for the peer.
  virtual Error Send(const Piece* pieces, std::size_t count, std::size_t* taken,
                     Output& output) = 0;
  virtual Error EndSend(Output& output) = 0;
  // Once true it stays true.
  [[nodiscard]] virtual bool ready() const = 0;
  // True exactly when it can take neither sends nor their end before it receives more. It changes
  // only in Receive.
  [[nodiscard]] virtual bool waits_for_peer() const { return false; }
  // The connection has ended. After it only the const functions are called.
  virtual void Close() {}
  // Null for a stage that is not TLS.
  [[nodiscard]] virtual const TlsReport* tls() const { return nullptr; }
};

}  // namespace iocp
