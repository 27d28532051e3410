// The stages of one connection, one above the other, and the bytes between them.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "iocp/buffer.h"
#include "iocp/error.h"
#include "stage/stage.h"
#include "stream/piece.h"
#include "stream/reorder_queue.h"
#include "stream/send_item.h"
#include "stream/send_queue.h"

namespace iocp {

// Two queues of sends meet here. The user's belongs to the session and holds what hooks have sent;
// the wire's belongs to the stack and holds what the port is to send. A send stays in the user's
// queue until the system has all that was made of it, so accounting and OnWriteCompleted do not
// know of stages.
//
// Belongs to the session's owner. After an error every call does nothing.
class StageStack {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  // Takes the bytes that come out at the top.
  class Sink {
   public:
    // Both may throw std::bad_alloc.
    virtual void Deliver(Buffer bytes) = 0;
    virtual void DeliverEnd() = 0;
    [[nodiscard]] virtual std::chrono::steady_clock::time_point Now() const = 0;
    // The memory of the worker that calls; null: there is none.
    [[nodiscard]] virtual SendMemory* send_memory() { return nullptr; }

   protected:
    ~Sink() = default;
  };

  // `stages`: the one next to the wire first; at least one. `ready_by`: by when they must be ready;
  // max: at any time.
  explicit StageStack(std::vector<std::unique_ptr<Stage>> stages,
                      TimePoint ready_by = TimePoint::max());
  StageStack(const StageStack&) = delete;
  StageStack& operator=(const StageStack&) = delete;
  ~StageStack();

  // For one stage that begins on an open connection, before Begin. The system has taken `sent`
  // bytes so far, and all that is in `user` goes out as it is. Throws std::bad_alloc.
  void SendPlain(const SendQueue& user, std::uint64_t sent);
  Error Begin(Sink& sink);
  // True exactly when Begin was called.
  [[nodiscard]] bool begun() const { return begun_; }
  Error Receive(Buffer bytes, Sink& sink);
  Error EndReceive(Sink& sink);
  // Makes wire bytes of the user's sends, while little waits for the wire.
  Error Send(const SendQueue& user, Sink& sink);
  // The same, and adds the end of each stage's stream once the stage has taken all sends. To be
  // called again until `ended`.
  Error EndSend(const SendQueue& user, Sink& sink);

  // The connection has ended: lets go of what the stages need for it.
  void Close();

  // True exactly when every stage is ready.
  [[nodiscard]] bool ready() const;
  // When they must be ready; max: they are, or may take any time.
  [[nodiscard]] TimePoint ready_by() const { return ready() ? TimePoint::max() : ready_by_; }
  // True for the first call that finds them ready.
  bool TakeReady() {
    if (ready_taken_ || !ready()) return false;
    ready_taken_ = true;
    return true;
  }
  // True exactly when there was an error.
  [[nodiscard]] bool failed() const { return failed_; }
  // The report of the first stage that is TLS; null: there is none. Any thread.
  [[nodiscard]] const TlsReport* tls() const;

  // Keeps received bytes that wait for their turn, while the stages are not ready. Throws
  // std::bad_alloc.
  void Postpone(Received&& received);
  [[nodiscard]] bool postponed() const { return !postponed_.empty(); }
  std::vector<Received> TakePostponed();
  // True exactly when every stage has added its end.
  [[nodiscard]] bool ended() const { return layers_.front().ended_down; }
  // True exactly when nothing waits for the wire; an upper stage's output may still wait for the
  // stage below.
  [[nodiscard]] bool empty() const { return layers_.front().down.empty(); }
  // Bytes that wait in the stages' outputs.
  [[nodiscard]] std::size_t waiting() const;
  // True when the peer should not be read from: too much that the stages have sent by themselves
  // waits for the wire, and received bytes may make more of it; or too many received bytes wait for
  // their turn.
  [[nodiscard]] bool full() const {
    return own_waiting_ > kMostAhead || postponed_bytes_ > kMostAhead;
  }

  // The pieces that the port is to send next: see SendQueue::Gather.
  std::size_t Gather(Piece* pieces) const { return layers_.front().down.Gather(pieces); }
  // The system has taken `bytes` from the wire's queue. Returns how many bytes of the user's queue
  // have gone out with them. `memory` is the calling worker's, or null.
  std::size_t Sent(std::size_t bytes, SendMemory* memory);
  // Bytes that the system has taken in all, also before there were stages.
  [[nodiscard]] std::uint64_t bytes_sent() const { return sent_before_ + layers_.front().out_sent; }

  // The most bytes that a stage is asked to send at a time: those of a full record of TLS.
  static constexpr std::size_t kStep = std::size_t{16} * 1024;
  // Bytes that a stage's output may hold: three steps, with what TLS adds to them.
  static constexpr std::size_t kMostAhead = 3 * kStep + 1024;

 private:
  // The origin of a layer's output up to `out_end`, a count of bytes from the beginning.
  struct Mark {
    std::uint64_t out_end;
    std::size_t in;   // bytes of the queue above
    std::size_t own;  // bytes that the stage has sent by itself
  };
  struct Layer {
    std::unique_ptr<Stage> stage;
    SendQueue down;              // its output, towards the wire
    std::uint64_t out_made = 0;  // bytes ever put into `down`
    std::uint64_t out_sent = 0;  // bytes that have left it
    std::vector<Mark> marks;     // of bytes that have not left it
    std::size_t taken = 0;       // bytes of the queue above that `marks` stand for
    SendQueue::Place place;      // behind those
    bool sending = false;        // true exactly while its Send runs
    bool ended_up = false;       // true exactly when it has called EndUp
    bool ended_down = false;     // true exactly when its EndSend has returned

    // True exactly when bytes from the wire are still for it. No handshake goes on behind the end
    // of its own stream: the peer would see it done, and then a stream that lacks its end.
    [[nodiscard]] bool hears() const { return !ended_up && (!ended_down || stage->ready()); }
  };
  class LayerOutput;

  static void Put(Layer& layer, std::string_view bytes, SendMemory* memory);
  // `call()`, unless there was an error before; remembers that there was one.
  template <typename Call>
  Error Guard(Call call);
  template <typename Call>
  Error CallStage(std::size_t index, Sink& sink, Call call);
  Error SendThrough(std::size_t index, const SendQueue& above, Sink& sink);
  Error SendEnds(const SendQueue& user, Sink& sink);
  [[nodiscard]] const SendQueue* Above(std::size_t index, const SendQueue& user) const;

  std::vector<Layer> layers_;
  const TimePoint ready_by_;
  std::uint64_t sent_before_ = 0;
  bool begun_ = false;
  bool ready_taken_ = false;  // true exactly when TakeReady has answered true
  std::vector<Received> postponed_;
  std::size_t postponed_bytes_ = 0;
  Error nested_error_;           // of a stage that was called inside another one's call
  bool failed_ = false;          // true exactly when there was an error
  std::size_t own_waiting_ = 0;  // bytes that stages have sent by themselves, in all layers
};

}  // namespace iocp
