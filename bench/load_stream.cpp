#include "load_stream.h"

#include <openssl/err.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

namespace load {
namespace {

constexpr std::size_t kScratch = 256 * 1024;
constexpr std::size_t kLongestHead = 4096;

[[noreturn]] void FailTls(const char* step) {
  const char* const reason = ERR_reason_error_string(ERR_peek_error());
  Fail(kRunError, "TLS, %s: %s", step, reason == nullptr ? "no reason" : reason);
}

void Require(bool done, const char* step) {
  if (!done) FailTls(step);
}

}  // namespace

// Bytes come from the shared buffer and go into the connection's own, so that a receive costs one
// system call however many records it brings, and a send however many it makes.
struct StreamBio {
  static BIO_METHOD* Method() {
    static BIO_METHOD* const method = [] {
      BIO_METHOD* const made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "load");
      Require(made != nullptr, "BIO_meth_new");
      BIO_meth_set_read(made, [](BIO* bio, char* to, int size) {
        std::string_view& wire = Of(bio).wire_;
        BIO_clear_retry_flags(bio);
        const std::size_t taken = std::min(wire.size(), static_cast<std::size_t>(size));
        std::memcpy(to, wire.data(), taken);
        wire.remove_prefix(taken);
        if (taken == 0) BIO_set_retry_read(bio);
        return taken == 0 ? -1 : static_cast<int>(taken);
      });
      BIO_meth_set_write(made, [](BIO* bio, const char* from, int size) {
        Of(bio).out_.append(from, static_cast<std::size_t>(size));
        return size;
      });
      BIO_meth_set_ctrl(made, [](BIO*, int command, long, void*) -> long {
        return command == BIO_CTRL_FLUSH ? 1 : 0;
      });
      return made;
    }();
    return method;
  }
  static Stream& Of(BIO* bio) { return *static_cast<Stream*>(BIO_get_data(bio)); }
};

TlsClient::TlsClient(const std::string& authority, bool resumes)
    : resumes_(resumes), context_(SSL_CTX_new(TLS_client_method())) {
  SSL_CTX* const context = context_.get();
  Require(context != nullptr, "SSL_CTX_new");
  Require(SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) == 1, "version");
  Require(SSL_CTX_set_ciphersuites(context, "TLS_AES_256_GCM_SHA384") == 1, "cipher");
  Require(SSL_CTX_set1_groups_list(context, "X25519") == 1, "group");
  Require(SSL_CTX_load_verify_locations(context, authority.c_str(), nullptr) == 1, "authority");
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_mode(context, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  if (!resumes) return;
  SSL_CTX_set_app_data(context, this);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL_STORE);
  SSL_CTX_sess_set_new_cb(context, &OnSession);
}

int TlsClient::OnSession(SSL* ssl, SSL_SESSION* session) {
  static_cast<TlsClient*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)))->session_.reset(session);
  return 1;
}

SslPtr TlsClient::Open() {
  SslPtr ssl(SSL_new(context_.get()));
  Require(ssl != nullptr, "SSL_new");
  SSL_set_connect_state(ssl.get());
  if (resumes_ && session_ != nullptr) {
    Require(SSL_set_session(ssl.get(), session_.get()) == 1, "session");
  }
  return ssl;
}

void Stream::Begin(int fd, TlsClient* tls, bool http) {
  fd_ = fd;
  http_ = http;
  full_ = false;
  out_.clear();
  ssl_.reset();
  if (tls == nullptr) return;
  ssl_ = tls->Open();
  offers_session_ = tls->has_session();
  BIO* const bio = BIO_new(StreamBio::Method());
  Require(bio != nullptr, "BIO_new");
  BIO_set_data(bio, this);
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl_.get(), bio, bio);
}

std::size_t Stream::SendToSocket(const char* data, std::size_t size) const {
  const ssize_t sent = send(fd_, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent >= 0) return static_cast<std::size_t>(sent);
  if (errno == EAGAIN || errno == ENOTCONN) return 0;
  Fail(kRunError, "connect or send: %s", ErrorText(errno).c_str());
}

std::size_t Stream::ReceiveFromSocket(char* to, std::size_t size, int flags) {
  const ssize_t got = recv(fd_, to, size, MSG_DONTWAIT | flags);
  full_ = got > 0 && static_cast<std::size_t>(got) == size;
  if (got >= 0) return static_cast<std::size_t>(got);
  if (errno == EAGAIN) return 0;
  Fail(kRunError, "recv: %s", ErrorText(errno).c_str());
}

// It is no error when more bytes of the server are needed, or when there will be none.
void Stream::CheckTls(int result, const char* step) const {
  const int error = SSL_get_error(ssl_.get(), result);
  if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_ZERO_RETURN) FailTls(step);
}

void Stream::Flush() {
  if (out_.empty()) return;
  out_.erase(0, SendToSocket(out_.data(), out_.size()));
}

std::size_t Stream::SendBelow(const char* data, std::size_t size) {
  if (ssl_ == nullptr) return SendToSocket(data, size);
  Flush();
  if (!out_.empty()) return 0;
  const int taken = SSL_write(ssl_.get(), data, static_cast<int>(size));
  if (taken <= 0) CheckTls(taken, "sending");
  Flush();
  return taken <= 0 ? 0 : static_cast<std::size_t>(taken);
}

std::size_t Stream::ReceiveBelow(char* to, std::size_t size, bool look) {
  // With MSG_TRUNC the bytes are dropped and only counted, as TCP on Linux does it.
  if (ssl_ == nullptr) return ReceiveFromSocket(to, size, look ? 0 : MSG_TRUNC);
  if (wire_.empty() && SSL_pending(ssl_.get()) == 0) {
    static std::vector<char> scratch(kScratch);
    wire_ = {scratch.data(), ReceiveFromSocket(scratch.data(), scratch.size(), 0)};
    if (wire_.empty()) return 0;
  }
  const int got = SSL_read(ssl_.get(), to, static_cast<int>(size));
  if (got <= 0) CheckTls(got, "receiving");
  Flush();
  return got <= 0 ? 0 : static_cast<std::size_t>(got);
}

// One message is the path that a GET asks for, and comes back as the body.
std::size_t Stream::Send(const char* data, std::size_t size) {
  if (!http_) return SendBelow(data, size);
  std::string request = "GET /";
  request.append(data, size);
  request += " HTTP/1.1\r\nHost: b\r\n\r\n";
  const std::size_t taken = SendBelow(request.data(), request.size());
  if (taken != 0 && taken != request.size()) Fail(kRunError, "a request was sent in parts");
  return taken == 0 ? 0 : size;
}

std::size_t Stream::Receive(char* to, std::size_t size, bool look) {
  return http_ ? ReceiveReply(to, size) : ReceiveBelow(to, size, look);
}

std::size_t Stream::ReceiveReply(char* to, std::size_t size) {
  static constexpr std::string_view kStatus = "HTTP/1.1 200 OK\r\n";
  static constexpr std::string_view kLength = "\r\nContent-Length: ";
  static constexpr std::string_view kEnd = "\r\n\r\n";
  reply_.append(to, ReceiveBelow(to, size, true));
  const std::size_t end = reply_.find(kEnd);
  if (end == std::string::npos) {
    if (reply_.size() > kLongestHead) Fail(kRunError, "a reply has no end of its head");
    return 0;
  }
  const std::string_view head = std::string_view(reply_).substr(0, end + 2);
  const std::size_t length_at = head.find(kLength);
  if (!head.starts_with(kStatus) || length_at == std::string::npos) {
    Fail(kRunError, "a reply is not the one expected: %.*s", 80, reply_.c_str());
  }
  std::size_t length = 0;
  std::from_chars(head.data() + length_at + kLength.size(), head.data() + head.size(), length);
  const std::size_t body = end + kEnd.size();
  if (reply_.size() < body + length) return 0;
  if (reply_.size() > body + length || length == 0 || reply_[body] != '/') {
    Fail(kRunError, "a reply has another body than the one expected");
  }
  std::memcpy(to, reply_.data() + body + 1, length - 1);
  reply_.clear();
  return length - 1;
}

void Stream::End() {
  if (ssl_ == nullptr) return;
  SSL_shutdown(ssl_.get());
  Flush();
  ssl_.reset();
}

}  // namespace load
