// TLS of a simulated run: what the server shows, clients of OpenSSL with faults of their own, and
// what OpenSSL holds for the server.
//
// OpenSSL's random bytes come from here, so the same seed makes the same run.
#pragma once

#include <iocp/tls.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>

#include "port/peer.h"

namespace iocp::sim {

// The habits of a client of TLS on its wire.
struct TlsHabits {
  static constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();

  bool tls12 = false;
  bool resumes = false;                 // the session of a client before it, where there is one
  bool distrusts = false;               // it does not know the authority, and says so
  std::uint64_t silent_from = kNever;   // all that it sends from this byte on is lost
  std::uint64_t changed_byte = kNever;  // of all that it sends

  // True exactly when its handshake may fail because of it.
  [[nodiscard]] bool faulty() const {
    return distrusts || silent_from != kNever || changed_byte != kNever;
  }
};

class TlsClient : public testing::Peer {
 public:
  // Moves what can be moved.
  virtual void Step() = 0;
  // True exactly when its handshake is done.
  [[nodiscard]] virtual bool connected() const = 0;
  // Not 0 exactly when it has something to do before it can end its stream.
  [[nodiscard]] virtual std::size_t waiting() const = 0;
  // Bytes that its wire has taken and brought.
  [[nodiscard]] virtual std::uint64_t moved() const = 0;
  // Not 0 exactly when TLS has failed; see TlsPeer::failure.
  [[nodiscard]] virtual int failure() const = 0;
  // True exactly when the end of its stream of TLS is on its way, and when the server's has come.
  [[nodiscard]] virtual bool said_end() const = 0;
  [[nodiscard]] virtual bool heard_end() const = 0;
  // Asks the server for new keys, so many times. False when it cannot.
  virtual bool UpdateKeys(std::size_t count) = 0;
  // Ends the stream without the end of TLS.
  virtual void Truncate() = 0;
};

class RunTls {
 public:
  RunTls() = default;
  RunTls(const RunTls&) = delete;
  RunTls& operator=(const RunTls&) = delete;
  virtual ~RunTls() = default;

  // Makes what all runs share, once. Before a run's memory is counted.
  static void Prepare();
  // Null in a build without TLS.
  static std::unique_ptr<RunTls> Begin();
  static constexpr std::size_t kMostWorkers = 4;

  [[nodiscard]] virtual const Tls& server() const = 0;
  [[nodiscard]] virtual Duration handshake_timeout() const = 0;
  virtual std::unique_ptr<TlsClient> Connect(std::unique_ptr<testing::Peer> wire,
                                             const TlsHabits& habits) = 0;

  // SSL objects that the engine has made, and not freed.
  [[nodiscard]] virtual std::size_t objects() const = 0;
  // Bytes that OpenSSL holds for the engine, beside those that it held when the run began.
  [[nodiscard]] virtual std::size_t bytes() const = 0;
};

}  // namespace iocp::sim
