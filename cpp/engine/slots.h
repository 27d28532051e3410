// Slots: how many connections there may be, those on their way to a shard included.
#pragma once

#include <atomic>

#include "port/completion_port.h"

namespace iocp {

class Engine;
struct ListeningSocket;

// Any thread. If new clients wait for room, it is the gate that the ports ask.
class Slots final : public AcceptGate {
 public:
  Slots(Engine& engine, int most) : engine_(engine), most_(most) {}

  bool Take();
  void Release();
  [[nodiscard]] bool full() const { return taken_.load(std::memory_order_seq_cst) >= most_; }

  bool Enter(Socket& listener) override;
  void Leave() override { Release(); }
  // True exactly when `listener` was turned away; it no longer counts as waiting.
  bool LetTryAgain(ListeningSocket& listener);

 private:
  Engine& engine_;
  const int most_;
  std::atomic<int> taken_{0};
  std::atomic<int> waiting_{0};  // listening sockets that were turned away
};

}  // namespace iocp
