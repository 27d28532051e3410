#include "stage/tls/ssl_context.h"

#include <openssl/core_names.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <new>
#include <utility>

#include "stage/tls/client_hello.h"
#include "stage/tls/pem.h"
#include "stage/tls/ticket_keys.h"

namespace iocp {
namespace {

constexpr long kMostCertificateBytes = 64L * 1024;  // of a peer's chain
// The names of groups differ from version to version: the first list that the library knows.
constexpr const char* kGroups[] = {"X25519MLKEM768:X25519:P-256:P-384", "X25519:P-256:P-384",
                                   "P-256:P-384"};

// The index under which an SSL_CTX keeps its SslContext; less than 0 before the first is made. When
// two threads make one at a time, one of the two stays unused.
std::atomic<int> context_index{-1};

bool MakeContextIndex() {
  int expected = -1;
  if (context_index >= 0) return true;
  const int made = SSL_CTX_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
  if (made < 0) return false;
  context_index.compare_exchange_strong(expected, made);
  return true;
}

// `option` may have the name of a file behind it.
void Require(bool done, const std::string& option) {
  if (!done) throw TlsError(option + ": OpenSSL refuses this: " + OpenSslReason());
}

int Number(TlsVersion version) {
  return version == TlsVersion::kTls13 ? TLS1_3_VERSION : TLS1_2_VERSION;
}

// Nothing of OpenSSL runs when the process ends: threads may still use it then.
bool InitializeOpenSsl() {
  return OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT | OPENSSL_INIT_LOAD_SSL_STRINGS, nullptr) == 1 &&
         MakeContextIndex();
}

// ---- Tickets, in the form that OpenSSL asks for.

bool SetTicketKey(const TicketKey& key, const unsigned char* iv, EVP_CIPHER_CTX* cipher,
                  EVP_MAC_CTX* mac, bool encrypt) {
  const EVP_CIPHER* const kind = key.size == 16 ? EVP_aes_128_cbc() : EVP_aes_256_cbc();
  char digest[] = "SHA256";
  OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY,
                                        const_cast<unsigned char*>(key.mac.data()), key.size),
      OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0), OSSL_PARAM_END};
  return EVP_CipherInit_ex(cipher, kind, nullptr, key.cipher.data(), iv, encrypt ? 1 : 0) == 1 &&
         EVP_MAC_CTX_set_params(mac, parameters) == 1;
}

// Returns less than 0 when it fails, 0 for a ticket that no key opens, 1 for a good one, and 2 for
// a good one whose client needs a new one.
int OnTicket(SSL* ssl, unsigned char* name, unsigned char* iv, EVP_CIPHER_CTX* cipher,
             EVP_MAC_CTX* mac, int encrypt) {
  // OpenSSL calls this for the context that a connection has begun with. The one that it goes on
  // with may have no tickets.
  TicketKeys* const keys = SslContext::Of(SSL_get_SSL_CTX(ssl)).description().ticket_keys.get();
  if (keys == nullptr) return 0;
  const auto now = std::chrono::steady_clock::now();
  TicketKey key;
  if (encrypt != 0) {
    if (!keys->Current(now, &key) ||
        RAND_bytes(iv, EVP_CIPHER_get_iv_length(EVP_aes_256_cbc())) != 1)
      return -1;
    std::copy(key.name.begin(), key.name.end(), name);
    return SetTicketKey(key, iv, cipher, mac, true) ? 1 : -1;
  }
  bool is_current = false;
  if (!keys->Find(name, now, &key, &is_current)) return 0;
  if (!SetTicketKey(key, iv, cipher, mac, false)) return -1;
  // A TLS 1.3 client gets a new ticket each time: whoever sees one ticket twice on the wire knows
  // that both connections belong to one client.
  return is_current && SSL_version(ssl) < TLS1_3_VERSION ? 1 : 2;
}

// ---- ALPN.

int OnAlpn(SSL* ssl, const unsigned char** chosen, unsigned char* chosen_size,
           const unsigned char* offered, unsigned int offered_size, void*) {
  const std::string& own = SslContext::Of(SSL_get_SSL_CTX(ssl)).description().alpn;
  unsigned char* found = nullptr;
  const int result =
      SSL_select_next_proto(&found, chosen_size, reinterpret_cast<const unsigned char*>(own.data()),
                            static_cast<unsigned int>(own.size()), offered, offered_size);
  *chosen = found;
  return result == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

// OpenSSL then tells the client that its host name was taken.
int OnServerName(SSL*, int*, void*) { return SSL_TLSEXT_ERR_OK; }

}  // namespace

const SslContext& SslContext::Of(const SSL_CTX* ssl_ctx) {
  return *static_cast<const SslContext*>(SSL_CTX_get_ex_data(ssl_ctx, context_index));
}

SslContext::SslContext(TlsDescription& description, std::size_t shard) : description_(description) {
  if (!InitializeOpenSsl()) throw std::bad_alloc();
  const CleanErrors clean;
  ssl_ctx_.reset(SSL_CTX_new(description.is_server ? TLS_server_method() : TLS_client_method()));
  if (ssl_ctx_ == nullptr) {
    throw TlsError("OpenSSL makes no context: " + OpenSslReason());
  }
  SSL_CTX_set_mode(get(), SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_options(get(), SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
  // The stage decrypts into the memory of what was received: see SslStage::ReadAll.
  SSL_CTX_set_read_ahead(get(), 0);
  SSL_CTX_set_max_cert_list(get(), kMostCertificateBytes);
  Require(SSL_CTX_set_ex_data(get(), context_index, this) == 1, "memory");
  SetVersions();
  SetCiphers();
  SetGroups();
  SetOwnCertificate();
  SetAuthorities();
  SetSessions();
  SetAlpn();
  for (const auto& [name, other] : description.sni) hosts_.emplace(name, &other->ContextOf(shard));
  if (description.is_server) {
    SSL_CTX_set_client_hello_cb(get(), &OnClientHello, nullptr);
    SSL_CTX_set_tlsext_servername_callback(get(), &OnServerName);
  }
}

void SslContext::SetVersions() {
  Require(SSL_CTX_set_min_proto_version(get(), Number(description_.min_version)) == 1,
          "min_version");
  if (!description_.max_version) return;
  Require(SSL_CTX_set_max_proto_version(get(), Number(*description_.max_version)) == 1,
          "max_version");
}

void SslContext::SetCiphers() {
  Require(SSL_CTX_set_cipher_list(get(), description_.cipher_list.c_str()) == 1, "ciphers");
  if (description_.cipher_suites.empty()) return;
  Require(SSL_CTX_set_ciphersuites(get(), description_.cipher_suites.c_str()) == 1, "ciphers");
}

void SslContext::SetGroups() {
  for (const char* const groups : kGroups) {
    if (SSL_CTX_set1_groups_list(get(), groups) == 1) return;
    ERR_clear_error();
  }
}

// Each context has a copy of the key, as OpenSSL has locks and caches in each key.
void SslContext::SetOwnCertificate() {
  if (description_.chain.empty()) return;
  const std::string option = "certificate_file '" + description_.certificate_file + "'";
  EvpKeyPtr copy(EVP_PKEY_dup(description_.key.get()));
  EVP_PKEY* const key = copy != nullptr ? copy.get() : description_.key.get();
  Require(SSL_CTX_use_certificate(get(), description_.chain.front().get()) == 1 &&
              SSL_CTX_use_PrivateKey(get(), key) == 1,
          option);
  for (std::size_t i = 1; i < description_.chain.size(); ++i) {
    Require(SSL_CTX_add1_chain_cert(get(), description_.chain[i].get()) == 1, option);
  }
}

int SslContext::verify_mode() const {
  switch (description_.verify) {
    case TlsVerify::kNone:
      return SSL_VERIFY_NONE;
    case TlsVerify::kOptional:
      return SSL_VERIFY_PEER;
    case TlsVerify::kRequired:
      return SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
  }
  return SSL_VERIFY_NONE;
}

void SslContext::SetAuthorities() {
  SSL_CTX_set_verify(get(), verify_mode(), nullptr);
  if (description_.system_authorities != nullptr) {
    SSL_CTX_set1_cert_store(get(), description_.system_authorities.get());
  }
  for (const X509Ptr& authority : description_.authorities) {
    X509_STORE* const store = SSL_CTX_get_cert_store(get());
    Require(X509_STORE_add_cert(store, authority.get()) == 1, "ca_file");
    if (!description_.is_server) continue;
    Require(SSL_CTX_add_client_CA(get(), authority.get()) == 1, "ca_file");
  }
}

// A session must not go on where another certificate is shown, nor where clients' certificates are
// judged by other rules, even when both have the same ticket keys.
void SslContext::SetSessions() {
  SSL_CTX_set_session_cache_mode(get(), SSL_SESS_CACHE_OFF);
  if (!description_.is_server) return;
  const std::unique_ptr<EVP_MD_CTX, FreeWith<&EVP_MD_CTX_free>> hash(EVP_MD_CTX_new());
  Require(hash != nullptr && EVP_DigestInit_ex(hash.get(), EVP_sha256(), nullptr) == 1, "memory");
  const auto verify = static_cast<unsigned char>(description_.verify);
  Require(EVP_DigestUpdate(hash.get(), &verify, 1) == 1, "memory");
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  const auto add = [&](const X509Ptr& certificate, const char* option) {
    Require(X509_digest(certificate.get(), EVP_sha256(), digest.data(), &size) == 1 &&
                EVP_DigestUpdate(hash.get(), digest.data(), size) == 1,
            option);
  };
  add(description_.chain.front(), "certificate_file");
  for (const X509Ptr& authority : description_.authorities) add(authority, "ca_file");
  Require(EVP_DigestFinal_ex(hash.get(), digest.data(), &size) == 1 &&
              SSL_CTX_set_session_id_context(get(), digest.data(), size) == 1,
          "memory");
  SSL_CTX_set_timeout(get(), std::chrono::seconds(2 * TicketKeys::kRotation).count());
  Require(SSL_CTX_set_tlsext_ticket_key_evp_cb(get(), &OnTicket) == 1, "session_tickets");
  const bool tickets = description_.ticket_keys != nullptr;
  SSL_CTX_set_num_tickets(get(), tickets ? 1 : 0);
  if (!tickets) SSL_CTX_set_options(get(), SSL_OP_NO_TICKET);
}

void SslContext::SetAlpn() {
  const std::string& alpn = description_.alpn;
  if (alpn.empty()) return;
  if (description_.is_server) {
    SSL_CTX_set_alpn_select_cb(get(), &OnAlpn, nullptr);
  } else {
    // This function returns 0 when it succeeds.
    Require(SSL_CTX_set_alpn_protos(get(), reinterpret_cast<const unsigned char*>(alpn.data()),
                                    static_cast<unsigned int>(alpn.size())) == 0,
            "alpn");
  }
}

const SslContext& SslContext::ForHost(std::string_view host) const {
  if (hosts_.empty()) return *this;
  auto found = hosts_.find(host);
  if (found == hosts_.end()) {
    const std::size_t dot = host.find('.');
    if (dot == std::string_view::npos || dot == 0) return *this;
    found = hosts_.find("*" + std::string(host.substr(dot)));
  }
  return found == hosts_.end() ? *this : *found->second;
}

// SSL_set_SSL_CTX takes over the certificate, the authorities and what the callbacks look at.
// The rest was copied from the first context.
bool SslContext::TakeOver(SSL* ssl) const {
  if (SSL_set_SSL_CTX(ssl, get()) == nullptr) return false;
  SSL_set_verify(ssl, verify_mode(), nullptr);
  SSL_clear_options(ssl, SSL_OP_NO_TICKET);
  SSL_set_options(ssl, SSL_CTX_get_options(get()));
  return SSL_set_num_tickets(ssl, SSL_CTX_get_num_tickets(get())) == 1 &&
         SSL_set_min_proto_version(ssl, Number(description_.min_version)) == 1 &&
         SSL_set_max_proto_version(
             ssl, description_.max_version ? Number(*description_.max_version) : 0) == 1 &&
         SSL_set_cipher_list(ssl, description_.cipher_list.c_str()) == 1 &&
         SSL_set_ciphersuites(ssl, description_.cipher_suites.empty()
                                       ? TLS_DEFAULT_CIPHERSUITES
                                       : description_.cipher_suites.c_str()) == 1;
}

}  // namespace iocp
