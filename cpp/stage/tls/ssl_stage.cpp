#include "stage/tls/ssl_stage.h"

#include <openssl/x509v3.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cassert>
#include <climits>
#include <cstring>
#include <new>
#include <utility>

#include "stage/tls/tls_stage.h"
#include "stream/buffer_pool.h"

namespace iocp {
namespace {

// The most bytes that a peer may send before the handshake is done. Certificates are long.
constexpr std::size_t kMostHandshake = std::size_t{32} * 1024;
constexpr std::size_t kMostHandshakeWithCertificate = std::size_t{128} * 1024;
// KeyUpdates, warnings and the like.
constexpr std::uint32_t kMostControlsPerSecond = 100;
// The first of OpenSSL's reasons that stand for alerts of the peer.
constexpr int kFirstAlert = SSL_AD_REASON_OFFSET;

// True for the reasons that bytes of other protocols cause.
bool SentNoTls(int reason) {
  return reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST ||
         reason == SSL_R_HTTPS_PROXY_REQUEST || reason == SSL_R_PACKET_LENGTH_TOO_LONG;
}

}  // namespace

// The calls that OpenSSL makes.
class SslBio {
 public:
  static BIO* New(SslStage* stage) {
    BIO_METHOD* const method = Method();
    BIO* const bio = method == nullptr ? nullptr : BIO_new(method);
    if (bio == nullptr) return nullptr;
    BIO_set_data(bio, stage);
    BIO_set_init(bio, 1);
    return bio;
  }

 private:
  // Made once, and never freed: an SSL object may outlive whatever would free it. Null when there
  // is no memory.
  static BIO_METHOD* Method() {
    static std::atomic<BIO_METHOD*> kept{nullptr};
    BIO_METHOD* known = kept.load(std::memory_order_acquire);
    if (known != nullptr) return known;
    BIO_METHOD* const made = NewMethod();
    if (made == nullptr || kept.compare_exchange_strong(known, made)) return made;
    BIO_meth_free(made);
    return known;
  }
  static BIO_METHOD* NewMethod() {
    BIO_METHOD* const method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "iocp");
    if (method == nullptr) return nullptr;
    BIO_meth_set_read(method, [](BIO* bio, char* to, int size) {
      BIO_clear_retry_flags(bio);
      const int got = Of(bio).ReadWire(to, size);
      if (got == 0) BIO_set_retry_read(bio);
      return got > 0 ? got : -1;
    });
    BIO_meth_set_write(method, [](BIO* bio, const char* from, int size) {
      BIO_clear_retry_flags(bio);
      return Of(bio).WriteWire(from, size);
    });
    BIO_meth_set_ctrl(method, [](BIO*, int command, long, void*) -> long {
      return command == BIO_CTRL_FLUSH ? 1 : 0;
    });
    return method;
  }
  static SslStage& Of(BIO* bio) { return *static_cast<SslStage*>(BIO_get_data(bio)); }
};

// One call of the stage, in which OpenSSL may be used.
class SslStage::Call {
 public:
  Call(SslStage& stage, Output& output, std::string_view wire = {}) : stage_(stage) {
    stage_.output_ = &output;
    stage_.wire_ = wire;
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  ~Call() {
    stage_.output_ = nullptr;
    stage_.wire_ = {};
  }

 private:
  const CleanErrors clean_;
  SslStage& stage_;
};

// Returns how many bytes it has read; 0: there are none for now; less than 0: OpenSSL must stop.
int SslStage::ReadWire(char* to, int size) {
  if (flooded_) return -1;
  const std::size_t taken = std::min(wire_.size(), static_cast<std::size_t>(size));
  if (taken == 0) return 0;
  std::memcpy(to, wire_.data(), taken);
  wire_.remove_prefix(taken);
  return static_cast<int>(taken);
}

int SslStage::WriteWire(const char* from, int size) {
  try {
    output_->Down(from, static_cast<std::size_t>(size));
    return size;
  } catch (const std::bad_alloc&) {
    no_memory_ = true;
    return -1;
  }
}

// OpenSSL calls this for each message and for the head of each record. Alerts that are sent count,
// too: they may be answers to those that came.
void SslStage::OnMessage(int sent, int, int type, const void*, std::size_t, SSL*, void* self) {
  if (type == SSL3_RT_ALERT ||
      (sent == 0 && (type == SSL3_RT_HANDSHAKE || type == SSL3_RT_CHANGE_CIPHER_SPEC))) {
    static_cast<SslStage*>(self)->CountControl();
  }
}

void SslStage::CountControl() {
  const auto now = output_->Now();
  if (now - counted_since_ >= std::chrono::seconds(1)) {
    counted_since_ = now;
    controls_ = 0;
  }
  if (++controls_ > kMostControlsPerSecond) flooded_ = true;
}

// ---- Errors.

Error SslStage::FailWith(TlsFailure failure, std::string fault, Error error) {
  report_.failure = failure;
  report_.fault = std::move(fault);
  return error;
}

Error SslStage::RunOutOfMemory() {
  return FailWith(TlsFailure::kResources, {}, {ErrorKind::kOutOfResources, 0});
}

// An SSL function has returned `result`, and more bytes would not help.
Error SslStage::Fail(int result) {
  const unsigned long error = ERR_peek_error();
  const int reason = ERR_GET_REASON(error);
  const int last = ERR_GET_REASON(ERR_peek_last_error());
  if (no_memory_ || reason == ERR_R_MALLOC_FAILURE || last == ERR_R_MALLOC_FAILURE) {
    return RunOutOfMemory();
  }
  const Error broken{ErrorKind::kTls, reason};
  if (flooded_) {
    return FailWith(TlsFailure::kProtocol, "the peer sends too many records that are not data",
                    broken);
  }
  if (ERR_GET_LIB(error) == ERR_LIB_SSL && reason >= kFirstAlert) {
    const char* const alert = SSL_alert_desc_string_long(reason - kFirstAlert);
    return FailWith(TlsFailure::kRefused, std::string("the peer sent the alert '") + alert + "'",
                    broken);
  }
  const long verified = SSL_get_verify_result(ssl_.get());
  if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED) {
    return FailWith(TlsFailure::kCertificate,
                    std::string("the peer's certificate is refused: ") +
                        X509_verify_cert_error_string(verified),
                    broken);
  }
  if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
    return FailWith(TlsFailure::kCertificate, "the peer has shown no certificate", broken);
  }
  if (!ready() && SentNoTls(reason)) {
    return FailWith(TlsFailure::kProtocol, "the peer has sent no TLS", broken);
  }
  const char* const text = ERR_reason_error_string(error);
  return FailWith(TlsFailure::kProtocol,
                  text != nullptr ? std::string("TLS failed: ") + text
                                  : "TLS failed: SSL_get_error is " +
                                        std::to_string(SSL_get_error(ssl_.get(), result)),
                  broken);
}

// ---- The handshake.

Error SslStage::Open() {
  ssl_.reset(SSL_new(hello_.context.get()));
  BIO* const bio = ssl_ == nullptr ? nullptr : SslBio::New(this);
  if (bio == nullptr) return RunOutOfMemory();
  SSL_set_bio(ssl_.get(), bio, bio);
  if (tls_->is_server) {
    if (SSL_set_app_data(ssl_.get(), &hello_) != 1) return RunOutOfMemory();
    SSL_set_accept_state(ssl_.get());
    return {};
  }
  SSL_set_connect_state(ssl_.get());
  return SetServerName() ? Error{} : RunOutOfMemory();
}

// Asks for the server's name, and takes no certificate that is for another. False when there is no
// memory.
bool SslStage::SetServerName() {
  const std::string& name = tls_->server_name;
  if (name.empty()) return true;
  const bool address = tls_->names_address;
  if (!address && SSL_set_tlsext_host_name(ssl_.get(), name.c_str()) != 1) return false;
  if (tls_->verify == TlsVerify::kNone) return true;
  if (address) {
    return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl_.get()), name.c_str()) == 1;
  }
  SSL_set_hostflags(ssl_.get(),
                    X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
  return SSL_set1_host(ssl_.get(), name.c_str()) == 1;
}

Error SslStage::Begin(Output& output) {
  if (tls_->is_server) return {};
  if (tls_->verify != TlsVerify::kNone && tls_->server_name.empty()) {
    return FailWith(TlsFailure::kCertificate,
                    "server_name must be given: there is no name to check the certificate with",
                    {ErrorKind::kTls, 0});
  }
  const Call call(*this, output);
  const Error error = Open();
  return error ? error : Handshake();
}

// Goes on with it as far as the received bytes allow.
Error SslStage::Handshake() {
  const std::size_t before = wire_.size();
  const int result = SSL_do_handshake(ssl_.get());
  handshake_bytes_ += before - wire_.size();
  if (result == 1) {
    Finish();
    return {};
  }
  if (SSL_get_error(ssl_.get(), result) != SSL_ERROR_WANT_READ) return Fail(result);
  const bool certificates = !tls_->is_server || SSL_get_verify_mode(ssl_.get()) != SSL_VERIFY_NONE;
  if (handshake_bytes_ <= (certificates ? kMostHandshakeWithCertificate : kMostHandshake)) {
    return {};
  }
  return FailWith(TlsFailure::kProtocol, "the peer's handshake is too long", {ErrorKind::kTls, 0});
}

void SslStage::Finish() {
  SSL* const ssl = ssl_.get();
  TlsInfo& info = report_.info;
  info.version = SSL_get_version(ssl);
  info.cipher = SSL_get_cipher_name(ssl);
  const unsigned char* alpn = nullptr;
  unsigned int alpn_size = 0;
  SSL_get0_alpn_selected(ssl, &alpn, &alpn_size);
  if (alpn_size != 0) info.alpn.assign(reinterpret_cast<const char*>(alpn), alpn_size);
  // Not from OpenSSL, which would name the host of the session that is resumed.
  if (tls_->is_server) {
    info.server_name = hello_.host.value_or(std::string());
  } else if (!tls_->names_address) {
    info.server_name = tls_->server_name;
  }
  info.resumed = SSL_session_reused(ssl) == 1;
  if (X509* const peer = SSL_get0_peer_certificate(ssl)) {
    unsigned char* der = nullptr;
    const int size = i2d_X509(peer, &der);
    if (size < 0) throw std::bad_alloc();
    const std::unique_ptr<unsigned char, void (*)(unsigned char*)> owner(
        der, [](unsigned char* memory) { OPENSSL_free(memory); });
    info.peer_certificate.assign(reinterpret_cast<const char*>(der),
                                 static_cast<std::size_t>(size));
  }
  SSL_set_msg_callback(ssl, &OnMessage);
  SSL_set_msg_callback_arg(ssl, this);
  counted_since_ = output_->Now();
  report_.done.store(true, std::memory_order_release);
}

// ---- Data.

Error SslStage::Receive(Buffer bytes, Output& output) {
  const Call call(*this, output, bytes.view());
  if (ssl_ == nullptr) {
    if (Error error = Open()) return error;
  }
  if (!ready()) {
    const Error error = Handshake();
    if (error || !ready()) return error;
  }
  std::size_t plain = 0;
  const Error error = ReadAll(bytes, &plain, output);
  if (plain != 0) output.Up(bytes.Slice(0, plain));
  if (error.kind != ErrorKind::kEndOfStream) return error;
  output.EndUp();
  return {};
}

// Decrypts until nothing is left. The hooks then get the first `*plain` bytes of `bytes`.
Error SslStage::ReadAll(Buffer& bytes, std::size_t* plain, Output& output) {
  char* const base = const_cast<char*>(bytes.data());  // they are nobody else's
  // The first part of this record came before and is not in `bytes`, which may be too short for it.
  bool cut = SSL_has_pending(ssl_.get()) == 1;
  while (!wire_.empty() || SSL_pending(ssl_.get()) != 0) {
    Buffer apart;
    char* to = base + *plain;
    std::size_t room = bytes.size() - *plain;
    if (cut) {
      apart = BufferPool::Allocate(kRecord, &to);
      if (apart.size() == 0) return RunOutOfMemory();
      room = kRecord;
    }
    const int got =
        SSL_read(ssl_.get(), to, static_cast<int>(std::min<std::size_t>(room, INT_MAX)));
    if (got <= 0) {
      const int error = SSL_get_error(ssl_.get(), got);
      if (error == SSL_ERROR_WANT_READ) return {};
      if (error != SSL_ERROR_ZERO_RETURN) return Fail(got);
      if (!waits_for_peer()) return {ErrorKind::kEndOfStream, 0};
      return FailWith(TlsFailure::kProtocol, "the peer's stream has ended inside a message of TLS",
                      {ErrorKind::kTls, 0});
    }
    if (std::exchange(cut, false)) {
      output.Up(apart.Slice(0, static_cast<std::size_t>(got)));
      continue;
    }
    *plain += static_cast<std::size_t>(got);
    assert(*plain <= bytes.size() - wire_.size() && "OpenSSL has read ahead");
  }
  return {};
}

Error SslStage::EndReceive(Output&) {
  if (ready() && tls_->allow_truncation && !waits_for_peer()) return {};
  return FailWith(TlsFailure::kPeerLeft,
                  ready() ? "the stream has ended without the end of TLS: it may have been cut off"
                          : "the peer ended the connection in the handshake",
                  {ErrorKind::kTruncated, 0});
}

Error SslStage::Write(const void* data, std::size_t size) {
  std::size_t written = 0;
  const int result = SSL_write_ex(ssl_.get(), data, size, &written);
  if (result != 1) return Fail(result);
  return {};
}

// True when OpenSSL has only the first part of a message, such as a KeyUpdate: it neither writes
// nor ends its stream before it has the rest.
bool SslStage::waits_for_peer() const {
  return ready() && ssl_ != nullptr && SSL_in_init(ssl_.get()) == 1;
}

// Small pieces are joined, so that records are full.
Error SslStage::Send(const Piece* pieces, std::size_t count, std::size_t* taken, Output& output) {
  const Call call(*this, output);
  std::array<char, kRecord> joined;
  std::size_t waiting = 0;  // bytes in `joined`
  for (std::size_t i = 0; i < count; ++i) {
    const char* data = static_cast<const char*>(pieces[i].data);
    std::size_t size = pieces[i].size;
    while (size != 0) {
      const bool alone = waiting == 0 && (size >= kRecord || i + 1 == count);
      const std::size_t part = std::min(size, kRecord - waiting);
      if (!alone) std::memcpy(joined.data() + waiting, data, part);
      if (!alone) waiting += part;
      if (alone || waiting == kRecord || (i + 1 == count && part == size)) {
        const Error error = alone ? Write(data, part) : Write(joined.data(), waiting);
        if (error) return error;
        waiting = 0;
      }
      data += part;
      size -= part;
      *taken += part;
    }
  }
  return {};
}

Error SslStage::EndSend(Output& output) {
  if (!ready()) return {};  // there is no stream of TLS yet that could end
  const Call call(*this, output);
  const int result = SSL_shutdown(ssl_.get());
  return result < 0 && SSL_get_error(ssl_.get(), result) != SSL_ERROR_WANT_READ ? Fail(result)
                                                                                : Error{};
}

// ---- For those who do not know of OpenSSL.

void PrepareTls(const Tls& tls, std::size_t shards) {
  for (std::size_t i = 0; i < shards; ++i) static_cast<void>(tls.description()->ContextOf(i));
}

std::unique_ptr<Stage> MakeTlsStage(const Tls& tls, std::size_t shard) {
  return std::make_unique<SslStage>(tls.description(), tls.description()->ContextOf(shard));
}

bool KnowsWhomToTrust(const Tls& tls) {
  const TlsDescription& description = *tls.description();
  return description.is_server || description.verify == TlsVerify::kNone ||
         !description.server_name.empty();
}

Duration HandshakeTimeout(const Tls& tls) { return tls.description()->handshake_timeout; }

}  // namespace iocp
