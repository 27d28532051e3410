#include "run_tls.h"

#include <openssl/crypto.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "memory.h"
#include "stage/tls/tls_stage.h"
#include "support/certificates.h"
#include "support/openssl_chance.h"
#include "support/tls_peer.h"

namespace iocp::sim {
namespace {

using testing::Certificates;
using testing::ClientContext;
using testing::Peer;
using testing::TlsPeer;

// ---- OpenSSL's memory, the engine's and the clients': the engine's is allocated while allocations
// may fail.

std::size_t engine_bytes = 0;
std::size_t engine_objects = 0;

struct alignas(std::max_align_t) Head {
  std::size_t size;
  bool engine;
};

void* Allocate(std::size_t size, const char*, int) {
  auto* const head = static_cast<Head*>(std::malloc(sizeof(Head) + size));
  if (head == nullptr) return nullptr;
  *head = {size, FailingMemory::armed()};
  if (head->engine) engine_bytes += size;
  return head + 1;
}
void Free(void* memory, const char*, int) {
  if (memory == nullptr) return;
  Head* const head = static_cast<Head*>(memory) - 1;
  if (head->engine) engine_bytes -= head->size;
  std::free(head);
}
void* Reallocate(void* memory, std::size_t size, const char* file, int line) {
  if (memory == nullptr) return Allocate(size, file, line);
  if (size == 0) {
    Free(memory, file, line);
    return nullptr;
  }
  void* const moved = Allocate(size, file, line);
  if (moved == nullptr) return nullptr;
  std::memcpy(moved, memory, std::min(size, (static_cast<Head*>(memory) - 1)->size));
  Free(memory, file, line);
  return moved;
}

// The mark that OpenSSL keeps in each SSL object of the engine's.
char engine_mark;

void OnNew(void*, void*, CRYPTO_EX_DATA* data, int index, long, void*) {
  if (!FailingMemory::armed()) return;
  if (CRYPTO_set_ex_data(data, index, &engine_mark) == 1) ++engine_objects;
}
void OnFree(void*, void* kept, CRYPTO_EX_DATA*, int, long, void*) {
  if (kept == &engine_mark) --engine_objects;
}

void WatchOpenSsl() {
  if (CRYPTO_set_mem_functions(&Allocate, &Reallocate, &Free) != 1 ||
      SSL_get_ex_new_index(0, nullptr, &OnNew, nullptr, &OnFree) < 0) {
    throw std::runtime_error("OpenSSL cannot be watched");
  }
}

// ---- What all runs share.

struct Shared {
  Shared() {
    const Certificates certificates(true);
    TlsServerOptions options = certificates.Server();
    // Keys that it made itself would change with the time, and no run could be repeated.
    options.ticket_keys = {std::string(80, 'k')};
    options.handshake_timeout = kTimeout;
    server = Tls::Server(options);
    PrepareTls(server, RunTls::kMostWorkers);
    trusting = testing::NewClientContext(certificates.ca_file());
    distrusting = testing::NewClientContext(certificates.ca_file());
    SSL_CTX_set_cert_store(distrusting.get(), X509_STORE_new());
  }

  static constexpr std::chrono::seconds kTimeout{2};
  Tls server;
  ClientContext trusting;
  ClientContext distrusting;
};

Shared& GetShared() {
  static Shared& shared = [&]() -> Shared& {
    WatchOpenSsl();
    testing::SeedOpenSsl(0);
    // Never freed: OpenSSL may be gone before it when the process ends.
    return *new Shared;
  }();
  return shared;
}

// ---- A run's.

// Loses bytes and changes them, as the client's habits say, and counts.
class FaultyWire final : public Peer {
 public:
  FaultyWire(std::unique_ptr<Peer> wire, const TlsHabits& habits)
      : wire_(std::move(wire)), habits_(habits) {}

  std::size_t Send(std::string_view data) override {
    if (data.empty()) return 0;
    if (sent_ >= habits_.silent_from) return data.size();
    std::string bytes(data.substr(0, habits_.silent_from - sent_));
    if (habits_.changed_byte - sent_ < bytes.size()) {
      bytes[habits_.changed_byte - sent_] ^= 0x40;
    }
    const std::size_t taken = wire_->Send(bytes);
    sent_ += taken;
    return taken;
  }
  std::string Receive(std::size_t most) override {
    std::string data = wire_->Receive(most);
    received_ += data.size();
    return data;
  }
  [[nodiscard]] State state() const override { return wire_->state(); }
  void EndStream() override { wire_->EndStream(); }
  void Close() override { wire_->Close(); }
  void Reset() override { wire_->Reset(); }
  [[nodiscard]] std::uint16_t port() const override { return wire_->port(); }

  [[nodiscard]] std::uint64_t moved() const { return sent_ + received_; }

 private:
  const std::unique_ptr<Peer> wire_;
  const TlsHabits habits_;
  std::uint64_t sent_ = 0;
  std::uint64_t received_ = 0;
};

using Sessions = testing::SessionPtr[2];  // the last that a client has got, for each version

class Client final : public TlsClient {
 public:
  Client(std::unique_ptr<FaultyWire> wire, SSL_CTX* context, bool tls12, SSL_SESSION* session,
         Sessions& sessions)
      : wire_(*wire),
        sessions_(sessions),
        tls12_(tls12),
        peer_(std::move(wire), context, "localhost", session) {}

  std::size_t Send(std::string_view data) override { return peer_.Send(data); }
  std::string Receive(std::size_t most) override {
    std::string data = peer_.Receive(most);
    KeepSession();
    return data;
  }
  [[nodiscard]] State state() const override { return peer_.state(); }
  void EndStream() override { peer_.EndStream(); }
  void Close() override { peer_.Close(); }
  void Reset() override { peer_.Reset(); }
  [[nodiscard]] std::uint16_t port() const override { return peer_.port(); }

  void Step() override { peer_.Step(); }
  [[nodiscard]] bool connected() const override { return peer_.handshake_done(); }
  [[nodiscard]] std::size_t waiting() const override {
    return peer_.waiting() + (connected() ? 0 : 1);
  }
  [[nodiscard]] std::uint64_t moved() const override { return wire_.moved(); }
  [[nodiscard]] int failure() const override { return peer_.failure(); }
  [[nodiscard]] bool said_end() const override { return peer_.said_end(); }
  [[nodiscard]] bool heard_end() const override { return peer_.ended_in_order(); }

  bool UpdateKeys(std::size_t count) override {
    if (tls12_ || !connected() || !peer_.idle() || failure() != 0 || said_end()) return false;
    for (std::size_t i = 0; i < count; ++i) {
      if (SSL_key_update(peer_.ssl(), SSL_KEY_UPDATE_REQUESTED) != 1 ||
          SSL_do_handshake(peer_.ssl()) != 1) {
        throw std::runtime_error("OpenSSL sends no KeyUpdate");
      }
    }
    peer_.Send({});
    return true;
  }
  void Truncate() override { peer_.Truncate(); }

 private:
  void KeepSession() {
    SSL_SESSION* const session = peer_.session();
    if (session == nullptr || sessions_[tls12_ ? 1 : 0].get() == session) return;
    SSL_SESSION_up_ref(session);
    sessions_[tls12_ ? 1 : 0].reset(session);
  }

  FaultyWire& wire_;
  Sessions& sessions_;
  const bool tls12_;
  TlsPeer peer_;
};

class RealRunTls final : public RunTls {
 public:
  RealRunTls() { testing::SeedOpenSsl(0); }

  [[nodiscard]] const Tls& server() const override { return GetShared().server; }
  [[nodiscard]] Duration handshake_timeout() const override { return Shared::kTimeout; }

  std::unique_ptr<TlsClient> Connect(std::unique_ptr<Peer> wire, const TlsHabits& habits) override {
    SSL_CTX* const context =
        (habits.distrusts ? GetShared().distrusting : GetShared().trusting).get();
    SSL_CTX_set_max_proto_version(context, habits.tls12 ? TLS1_2_VERSION : TLS1_3_VERSION);
    SSL_SESSION* const session = habits.resumes ? sessions_[habits.tls12 ? 1 : 0].get() : nullptr;
    return std::make_unique<Client>(std::make_unique<FaultyWire>(std::move(wire), habits), context,
                                    habits.tls12, session, sessions_);
  }

  [[nodiscard]] std::size_t objects() const override { return engine_objects - objects_before_; }
  [[nodiscard]] std::size_t bytes() const override {
    return engine_bytes - std::min(engine_bytes, bytes_before_);
  }

 private:
  const std::size_t objects_before_ = engine_objects;
  const std::size_t bytes_before_ = engine_bytes;
  Sessions sessions_;
};

}  // namespace

void RunTls::Prepare() { GetShared(); }
std::unique_ptr<RunTls> RunTls::Begin() { return std::make_unique<RealRunTls>(); }

}  // namespace iocp::sim
