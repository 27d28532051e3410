#include "stage/stage_stack.h"

#include <cassert>
#include <new>
#include <string_view>
#include <utility>

#include "stream/buffer_pool.h"

namespace iocp {

// The output of one layer, for one call of its stage.
class StageStack::LayerOutput final : public Stage::Output {
 public:
  LayerOutput(StageStack& stack, std::size_t index, Sink& sink)
      : stack_(stack), index_(index), sink_(sink) {}

  void Up(Buffer bytes) override {
    if (bytes.size() == 0 || layer().ended_up || stack_.nested_error_) return;
    if (top()) {
      sink_.Deliver(std::move(bytes));
      return;
    }
    if (!above().hears()) return;
    Note(stack_.CallStage(index_ + 1, sink_, [&](Stage& stage, Stage::Output& output) {
      return stage.Receive(std::move(bytes), output);
    }));
  }

  void EndUp() override {
    if (std::exchange(layer().ended_up, true) || stack_.nested_error_) return;
    if (top()) {
      sink_.DeliverEnd();
      return;
    }
    if (above().ended_up) return;
    Note(stack_.CallStage(index_ + 1, sink_, [](Stage& stage, Stage::Output& output) {
      const Error error = stage.EndReceive(output);
      if (!error) output.EndUp();
      return error;
    }));
  }

  void Down(const void* data, std::size_t size) override {
    Layer& layer = this->layer();
    if (size == 0 || layer.ended_down) return;
    Put(layer, {static_cast<const char*>(data), size}, sink_.send_memory());
    if (layer.sending) return;
    layer.marks.push_back({layer.out_made, 0, size});
    stack_.own_waiting_ += size;
  }

  [[nodiscard]] TimePoint Now() const override { return sink_.Now(); }

 private:
  [[nodiscard]] Layer& layer() const { return stack_.layers_[index_]; }
  [[nodiscard]] Layer& above() const { return stack_.layers_[index_ + 1]; }
  [[nodiscard]] bool top() const { return index_ + 1 == stack_.layers_.size(); }
  void Note(const Error& error) {
    if (!stack_.nested_error_) stack_.nested_error_ = error;
  }

  StageStack& stack_;
  const std::size_t index_;
  Sink& sink_;
};

StageStack::StageStack(std::vector<std::unique_ptr<Stage>> stages, TimePoint ready_by)
    : layers_(stages.size()), ready_by_(ready_by) {
  for (std::size_t i = 0; i < stages.size(); ++i) layers_[i].stage = std::move(stages[i]);
}

StageStack::~StageStack() = default;

// Copies bytes into the output of a layer.
void StageStack::Put(Layer& layer, std::string_view bytes, SendMemory* memory) {
  if (!layer.down.Pack(&bytes, 1, bytes.size())) {
    SendItem* const item = SendItem::Copy(&bytes, 1, memory);
    if (item == nullptr) throw std::bad_alloc();
    layer.down.Push(item);
  }
  layer.out_made += bytes.size();
}

template <typename Call>
Error StageStack::Guard(Call call) {
  if (failed_) return {};
  Error error;
  try {
    error = call();
  } catch (const std::bad_alloc&) {
    error = {ErrorKind::kOutOfResources, 0};
  }
  if (error) failed_ = true;
  return error;
}

// The first error of the stage and of those above it that it has called.
template <typename Call>
Error StageStack::CallStage(std::size_t index, Sink& sink, Call call) {
  LayerOutput output(*this, index, sink);
  const Error error = call(*layers_[index].stage, output);
  return nested_error_ ? nested_error_ : error;
}

// A send in flight is at the front of `user`, and so at the front of the wire's queue: its
// completion counts for both.
void StageStack::SendPlain(const SendQueue& user, std::uint64_t sent) {
  assert(layers_.size() == 1);
  sent_before_ = sent;
  Layer& wire = layers_.front();
  Piece pieces[kMaxPieces];
  SendQueue::Place place;
  while (const std::size_t count = user.Gather(pieces, place, kMostAhead)) {
    for (std::size_t i = 0; i < count; ++i) {
      const std::string_view piece(static_cast<const char*>(pieces[i].data), pieces[i].size);
      Put(wire, piece, nullptr);
      wire.marks.push_back({wire.out_made, piece.size(), 0});
      wire.taken += piece.size();
      place = user.Forward(place, piece.size());
    }
  }
  wire.place = place;
}

Error StageStack::Begin(Sink& sink) {
  begun_ = true;
  return Guard([&] {
    Error error;
    for (std::size_t i = 0; i < layers_.size() && !error; ++i) {
      error = CallStage(i, sink,
                        [](Stage& stage, Stage::Output& output) { return stage.Begin(output); });
    }
    return error;
  });
}

Error StageStack::Receive(Buffer bytes, Sink& sink) {
  if (!layers_.front().hears()) return {};
  return Guard([&] {
    return CallStage(0, sink, [&](Stage& stage, Stage::Output& output) {
      return stage.Receive(std::move(bytes), output);
    });
  });
}

Error StageStack::EndReceive(Sink& sink) {
  if (layers_.front().ended_up) return {};
  return Guard([&] {
    return CallStage(0, sink, [](Stage& stage, Stage::Output& output) {
      const Error error = stage.EndReceive(output);
      if (!error) output.EndUp();
      return error;
    });
  });
}

const SendQueue* StageStack::Above(std::size_t index, const SendQueue& user) const {
  return index + 1 == layers_.size() ? &user : &layers_[index + 1].down;
}

Error StageStack::Send(const SendQueue& user, Sink& sink) {
  return Guard([&] {
    Error error;
    for (std::size_t i = layers_.size(); i-- > 0 && !error;) {
      error = SendThrough(i, *Above(i, user), sink);
    }
    return error;
  });
}

Error StageStack::EndSend(const SendQueue& user, Sink& sink) {
  return Guard([&] { return SendEnds(user, sink); });
}

Error StageStack::SendThrough(std::size_t index, const SendQueue& above, Sink& sink) {
  Layer& layer = layers_[index];
  while (layer.stage->ready() && !layer.stage->waits_for_peer() &&
         layer.out_made - layer.out_sent + kStep <= kMostAhead) {
    Piece pieces[kMaxPieces];
    const std::size_t count = above.Gather(pieces, layer.place, kStep);
    if (count == 0) return {};
    std::size_t taken = 0;
    layer.sending = true;
    const Error error = CallStage(index, sink, [&](Stage& stage, Stage::Output& output) {
      return stage.Send(pieces, count, &taken, output);
    });
    layer.sending = false;
    if (error || taken == 0) return error;
    layer.place = above.Forward(layer.place, taken);
    layer.taken += taken;
    layer.marks.push_back({layer.out_made, taken, 0});
  }
  return {};
}

Error StageStack::SendEnds(const SendQueue& user, Sink& sink) {
  bool above_ended = true;  // the user has closed
  for (std::size_t i = layers_.size(); i-- > 0;) {
    const SendQueue& above = *Above(i, user);
    Error error = SendThrough(i, above, sink);
    if (error) return error;
    Layer& layer = layers_[i];
    if (layer.ended_down) continue;
    // Its end comes behind what it has no room for now. The stages below go on sending meanwhile.
    Piece pieces[kMaxPieces];
    above_ended =
        above_ended && !layer.stage->waits_for_peer() && above.Gather(pieces, layer.place, 1) == 0;
    if (!above_ended) continue;
    error = CallStage(i, sink,
                      [](Stage& stage, Stage::Output& output) { return stage.EndSend(output); });
    if (error) return error;
    layer.ended_down = true;
  }
  return {};
}

void StageStack::Close() {
  failed_ = true;
  for (Layer& layer : layers_) layer.stage->Close();
  static_cast<void>(TakePostponed());
}

const TlsReport* StageStack::tls() const {
  for (const Layer& layer : layers_) {
    if (const TlsReport* const report = layer.stage->tls()) return report;
  }
  return nullptr;
}

void StageStack::Postpone(Received&& received) {
  received.buffer = BufferPool::Compact(std::move(received.buffer));
  postponed_bytes_ += received.buffer.size() + sizeof(Received);
  postponed_.push_back(std::move(received));
}

std::vector<Received> StageStack::TakePostponed() {
  postponed_bytes_ = 0;
  return std::exchange(postponed_, {});
}

bool StageStack::ready() const {
  if (ready_taken_) return true;
  for (const Layer& layer : layers_) {
    if (!layer.stage->ready()) return false;
  }
  return true;
}

std::size_t StageStack::waiting() const {
  std::uint64_t bytes = 0;
  for (const Layer& layer : layers_) bytes += layer.out_made - layer.out_sent;
  return static_cast<std::size_t>(bytes);
}

std::size_t StageStack::Sent(std::size_t bytes, SendMemory* memory) {
  for (Layer& layer : layers_) {
    SendQueue ended;
    layer.down.Advance(bytes, ended);
    while (SendItem* const item = ended.Pop()) SendItem::Destroy(item, memory);
    layer.out_sent += bytes;
    bytes = 0;
    auto mark = layer.marks.begin();
    for (; mark != layer.marks.end() && mark->out_end <= layer.out_sent; ++mark) {
      bytes += mark->in;
      own_waiting_ -= mark->own;
    }
    layer.marks.erase(layer.marks.begin(), mark);
    layer.taken -= bytes;
    if (layer.taken == 0) layer.place = {};
  }
  return bytes;
}

}  // namespace iocp
