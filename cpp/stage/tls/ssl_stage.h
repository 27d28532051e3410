// TLS as a stage: one SSL object between a connection's wire and its hooks.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "iocp/tls.h"
#include "stage/stage.h"
#include "stage/tls/client_hello.h"
#include "stage/tls/openssl.h"
#include "stage/tls/ssl_context.h"
#include "stage/tls/tls_report.h"

namespace iocp {

// A server makes its SSL object with the client's first bytes: a silent client costs nothing.
//
// OpenSSL reads and writes through a BIO which is this stage. Reading takes from the buffer that is
// being received, and a record that is whole is decrypted into that same buffer: no more bytes come
// out than have been read of it. Writing goes into the output of the call.
class SslStage final : public Stage {
 public:
  // `context` is one of `tls`'s, and lives as long.
  SslStage(std::shared_ptr<const TlsDescription> tls, const SslContext& context)
      : tls_(std::move(tls)), hello_{context, {}} {}
  ~SslStage() override = default;

  Error Begin(Output& output) override;
  Error Receive(Buffer bytes, Output& output) override;
  Error EndReceive(Output& output) override;
  Error Send(const Piece* pieces, std::size_t count, std::size_t* taken, Output& output) override;
  Error EndSend(Output& output) override;
  [[nodiscard]] bool ready() const override { return report_.done; }
  [[nodiscard]] bool waits_for_peer() const override;
  void Close() override {
    ssl_.reset();
    tls_.reset();
  }
  [[nodiscard]] const TlsReport* tls() const override { return &report_; }

  // Bytes of a full record.
  static constexpr std::size_t kRecord = 16384;

 private:
  class Call;
  friend class SslBio;

  Error Open();
  bool SetServerName();
  Error Handshake();
  void Finish();
  Error ReadAll(Buffer& bytes, std::size_t* plain, Output& output);
  Error Write(const void* data, std::size_t size);
  Error Fail(int result);
  Error FailWith(TlsFailure failure, std::string fault, Error error);
  Error RunOutOfMemory();

  // The BIO calls these.
  int ReadWire(char* to, int size);
  int WriteWire(const char* from, int size);
  static void OnMessage(int sent, int version, int type, const void*, std::size_t, SSL*,
                        void* self);
  void CountControl();

  std::shared_ptr<const TlsDescription> tls_;  // null once closed; `hello_` needs it
  ClientHello hello_;
  SslPtr ssl_;
  TlsReport report_;

  // Set while a Call lives.
  Output* output_ = nullptr;
  std::string_view wire_;  // bytes received, and not read by OpenSSL yet

  std::size_t handshake_bytes_ = 0;  // received before the handshake was done
  std::uint32_t controls_ = 0;       // messages that are not data, since `counted_since_`
  std::chrono::steady_clock::time_point counted_since_;
  bool no_memory_ = false;  // true exactly when the output found no memory
  bool flooded_ = false;    // true exactly when the peer has sent too much that is not data
};

}  // namespace iocp
