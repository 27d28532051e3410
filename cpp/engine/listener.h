// A listener: accepts on every shard, and decides what becomes of each client.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "iocp/address.h"
#include "iocp/error.h"
#include "port/completion_port.h"

namespace iocp {

class Engine;
class Listener;
class Shard;
class Worker;

// A listener as the port of one shard knows it. The mutex is for ports on which several workers
// wait.
struct ListeningSocket : Socket {
  explicit ListeningSocket(Listener& its_listener) : listener(its_listener) {}

  Listener& listener;
  Mutex mutex;
  // True exactly when the port accepts, or did.
  bool begun IOCP_GUARDED_BY(mutex) = false;
  // True exactly when it was asked to end.
  bool cancelled IOCP_GUARDED_BY(mutex) = false;
  // True exactly when no completion comes for it any more.
  bool ended IOCP_GUARDED_BY(mutex) = false;
  // The length of the last pause after a shortage; 0: the last accept met none.
  std::chrono::milliseconds back_off IOCP_GUARDED_BY(mutex){0};
  // When to begin, or to go on after a shortage; max: not to be tried.
  std::atomic<TimePoint> retry_at{TimePoint::min()};
  // True exactly when Slots has turned it away, so that the port has paused it.
  std::atomic<bool> waits_for_slot{false};
};

class Listener {
 public:
  Listener(Engine& engine, const PortKind& kind);
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  ~Listener();

  // Once, before any worker runs. On failure nothing is left behind.
  Status Listen(const ListenOptions& options);
  // The address it is bound to.
  [[nodiscard]] const Address& address() const { return address_; }

  static Listener& Of(Socket& socket) { return static_cast<ListeningSocket&>(socket).listener; }
  // A completion of the worker's shard.
  void OnCompletion(Worker& worker, Completion& completion);
  // Once in each turn: begins to accept, goes on after a shortage or when a slot has come free,
  // ends when the server stops.
  void OnTurn(Worker& worker);
  // When OnTurn has something to do on that shard at the latest.
  [[nodiscard]] TimePoint NextTurn(const Shard& shard) const;
  // True exactly when the handle is closed and nothing will be handed to a shard any more.
  [[nodiscard]] bool done() const { return done_.load(std::memory_order_acquire); }

 private:
  static constexpr std::chrono::milliseconds kFirstBackOff{100};
  static constexpr std::chrono::milliseconds kLastBackOff{1000};

  void Begin(Worker& worker, ListeningSocket& socket) IOCP_REQUIRES(socket.mutex);
  void OnExhaustion(Worker& worker, ListeningSocket& socket, const Error& error)
      IOCP_REQUIRES(socket.mutex);
  void Take(Worker& worker, NativeSocket accepted);
  void Refuse(Worker& worker, NativeSocket accepted);
  void Place(Worker& worker, NativeSocket accepted);
  void End(ListeningSocket& socket) IOCP_REQUIRES(socket.mutex);

  Engine& engine_;
  const PortKind& kind_;
  NativeSocket handle_ = kNoSocket;
  Address address_;
  std::vector<std::unique_ptr<ListeningSocket>> sockets_;  // one for each shard, by its index
  std::atomic<std::size_t> not_ended_;                     // of those
  std::atomic<bool> done_{false};
};

}  // namespace iocp
