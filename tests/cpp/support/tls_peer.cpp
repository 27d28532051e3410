#include "support/tls_peer.h"

#include <openssl/bio.h>
#include <openssl/err.h>

#include <stdexcept>
#include <utility>

namespace iocp::testing {

ClientContext NewClientContext(const std::string& ca_file) {
  ClientContext context(SSL_CTX_new(TLS_client_method()));
  if (context == nullptr) throw std::runtime_error("OpenSSL makes no context");
  if (ca_file.empty()) return context;
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  if (SSL_CTX_load_verify_file(context.get(), ca_file.c_str()) != 1) {
    throw std::runtime_error("no certificates in " + ca_file);
  }
  return context;
}

TlsPeer::TlsPeer(std::unique_ptr<Peer> wire, SSL_CTX* context, const std::string& host,
                 SSL_SESSION* session)
    : wire_(std::move(wire)), ssl_(SSL_new(context)) {
  SSL_set_bio(ssl_.get(), BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
  BIO_set_mem_eof_return(SSL_get_rbio(ssl_.get()), -1);
  SSL_set_connect_state(ssl_.get());
  SSL_set_app_data(ssl_.get(), this);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_sess_set_new_cb(context, &OnSession);
  if (!host.empty()) {
    SSL_set_tlsext_host_name(ssl_.get(), host.c_str());
    SSL_set1_host(ssl_.get(), host.c_str());
  }
  if (session != nullptr) SSL_set_session(ssl_.get(), session);
  Pump();
}

int TlsPeer::OnSession(SSL* ssl, SSL_SESSION* session) {
  static_cast<TlsPeer*>(SSL_get_app_data(ssl))->session_.reset(session);
  return 1;
}

void TlsPeer::Note(int result) {
  const int error = SSL_get_error(ssl_.get(), result);
  if (error == SSL_ERROR_ZERO_RETURN) ended_ = true;
  if (error == SSL_ERROR_SSL && failure_ == 0) {
    failure_ = ERR_GET_REASON(ERR_peek_error());
  }
  ERR_clear_error();
}

void TlsPeer::Read() {
  char part[16384];
  while (failure_ == 0 && !ended_) {
    const int got = SSL_read(ssl_.get(), part, sizeof(part));
    if (got <= 0) {
      Note(got);
      return;
    }
    received_.append(part, static_cast<std::size_t>(got));
  }
}

void TlsPeer::Pump() {
  ERR_clear_error();
  Read();  // and the handshake
  if (handshake_done() && !plain_.empty() && failure_ == 0) {
    const int result = SSL_write(ssl_.get(), plain_.data(), static_cast<int>(plain_.size()));
    if (result > 0) {
      plain_.clear();
    } else {
      Note(result);
    }
  }
  char* data = nullptr;
  const long size = BIO_get_mem_data(SSL_get_wbio(ssl_.get()), &data);
  out_.append(data, static_cast<std::size_t>(size));
  static_cast<void>(BIO_reset(SSL_get_wbio(ssl_.get())));
  Flush();
}

bool TlsPeer::Flush() {
  out_.erase(0, wire_->Send(out_));
  return out_.empty();
}

void TlsPeer::Step() {
  const std::string more = wire_->Receive(65'536);
  BIO_write(SSL_get_rbio(ssl_.get()), more.data(), static_cast<int>(more.size()));
  Pump();
}

std::size_t TlsPeer::Send(std::string_view data) {
  Pump();
  if (!idle() || said_end_ || failure_ != 0) return 0;
  plain_ = data;
  Pump();
  return data.size();
}

std::string TlsPeer::Receive(std::size_t most) {
  Step();
  std::string data = received_.substr(0, most);
  received_.erase(0, data.size());
  return data;
}

Peer::State TlsPeer::state() const {
  if (!received_.empty()) return State::kOpen;
  return wire_->state() == State::kEnded && !ended_ ? State::kReset : wire_->state();
}

// Without its own end when the stream is stuck, or there is none yet: the server then gets a
// truncated one.
void TlsPeer::EndStream() {
  Pump();
  // Once: again it would wait for the server's end.
  if (!said_end_ && idle() && handshake_done() && failure_ == 0) {
    ERR_clear_error();
    said_end_ = SSL_shutdown(ssl_.get()) >= 0;
    Pump();
  }
  wire_->EndStream();
}

}  // namespace iocp::testing
