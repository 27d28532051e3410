#include "stage/tls/tls_description.h"

#include <openssl/x509v3.h>

#include <algorithm>
#include <chrono>
#include <new>
#include <string_view>
#include <utility>

#include "stage/tls/host_name.h"
#include "stage/tls/pem.h"
#include "stage/tls/ssl_context.h"
#include "stage/tls/system_authorities.h"

namespace iocp {
namespace {

// Forward secrecy and authenticated encryption.
constexpr const char* kDefaultCiphers = "ECDHE+AESGCM:ECDHE+CHACHA20";
constexpr std::size_t kMostAlpnBytes = 65535;

std::string AlpnOnTheWire(const std::vector<std::string>& names) {
  std::string wire;
  for (const std::string& name : names) {
    if (name.empty() || name.size() > 255) {
      throw TlsError("alpn: a name has 1 to 255 bytes, not " + std::to_string(name.size()));
    }
    wire += static_cast<char>(name.size());
    wire += name;
  }
  if (wire.size() > kMostAlpnBytes) throw TlsError("alpn: there are too many names");
  return wire;
}

// OpenSSL sets the suites of TLS 1.3 with one function and all other ciphers with another.
void SplitCiphers(const std::string& ciphers, std::string* list, std::string* suites) {
  if (ciphers.find('\0') != std::string::npos) throw TlsError("ciphers must not contain NUL");
  std::string_view rest = ciphers;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find_first_of(":, "), rest.size());
    const std::string_view name = rest.substr(0, end);
    std::string& to = name.starts_with("TLS_") ? *suites : *list;
    if (!name.empty() && !to.empty()) to += ':';
    to += name;
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  if (list->empty()) *list = kDefaultCiphers;
}

bool IsAddress(const std::string& name) {
  const CleanErrors clean;
  ASN1_OCTET_STRING* const address = a2i_IPADDRESS(name.c_str());
  const bool is = address != nullptr;
  ASN1_OCTET_STRING_free(address);
  if (!is) static_cast<void>(OpenSslReason());  // there may have been no memory
  return is;
}

std::string ShowTime(const ASN1_TIME* time) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (bio == nullptr) throw std::bad_alloc();
  if (ASN1_TIME_print(bio.get(), time) != 1) return "a time that cannot be read";
  char* text = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &text);
  return {text, static_cast<std::size_t>(size)};
}

}  // namespace

template <typename Options>
void TlsDescription::ReadCommon(const Options& options) {
  if (options.handshake_timeout <= Duration::zero() ||
      options.handshake_timeout > std::chrono::hours(24 * 365)) {
    throw TlsError("handshake_timeout must be more than 0, and at most a year");
  }
  handshake_timeout = options.handshake_timeout;
  allow_truncation = options.allow_truncation;
  alpn = AlpnOnTheWire(options.alpn);
  min_version = options.min_version;
  max_version = options.max_version;
  if (max_version && *max_version < min_version) {
    throw TlsError("max_version must not be older than min_version");
  }
  SplitCiphers(options.ciphers, &cipher_list, &cipher_suites);
  if (!options.ca_file.empty()) authorities = ReadCertificates("ca_file", options.ca_file);
  if (options.certificate_file.empty()) {
    if (!options.key_file.empty()) throw TlsError("key_file needs certificate_file");
    return;
  }
  certificate_file = options.certificate_file;
  chain = ReadCertificates("certificate_file", certificate_file);
  const bool own_file = !options.key_file.empty();
  const std::string& key_file = own_file ? options.key_file : options.certificate_file;
  key = ReadKey(own_file ? "key_file" : "certificate_file", key_file, options.password);
  const CleanErrors clean;
  if (X509_check_private_key(chain.front().get(), key.get()) != 1) {
    const char* const which =
        chain.size() == 1 ? "" : ", the first one there: the server's own must come first";
    throw TlsError("the key in '" + key_file + "' is not that of the certificate in '" +
                       options.certificate_file + "'" + which,
                   key_file);
  }
}

void TlsDescription::ReadSni(const TlsServerOptions& options) {
  for (const auto& [name, tls] : options.sni) {
    const std::string normal = NormalHostName(name);
    const bool any = normal.starts_with("*.");
    if (!IsHostName(std::string_view(normal).substr(any ? 2 : 0))) {
      throw TlsError("sni: '" + name +
                     "' is no host name: give one in ASCII (for others, as 'xn--...'), which may "
                     "begin with '*.'");
    }
    if (IsAddress(normal)) {
      throw TlsError("sni: '" + name + "' is an address, and clients ask for host names alone");
    }
    if (!tls || !tls.is_server()) {
      throw TlsError("sni: '" + name + "' must lead to a Tls of a server");
    }
    if (!sni.emplace(normal, tls.description()).second) {
      throw TlsError("sni: '" + name + "' is there twice: case and a dot at the end do not count");
    }
  }
}

void TlsDescription::ReadServerName(const std::string& name) {
  if (name.size() > kMostHostName || name.find('\0') != std::string::npos) {
    throw TlsError("server_name must have at most 255 bytes, and no NUL");
  }
  if (name.empty()) return;
  names_address = IsAddress(name);
  server_name = names_address ? name : NormalHostName(name);
  if (names_address || IsHostName(server_name)) return;
  throw TlsError("server_name: '" + name +
                 "' is neither a host name nor an IP address: give a host name in ASCII (for "
                 "others, as 'xn--...')");
}

void TlsDescription::ReadTicketKeys(const TlsServerOptions& options) {
  for (const std::string& ticket_key : options.ticket_keys) {
    if (ticket_key.size() == 48 || ticket_key.size() == 80) continue;
    throw TlsError("ticket_keys: a key has 48 or 80 bytes, not " +
                   std::to_string(ticket_key.size()));
  }
  if (options.session_tickets) {
    ticket_keys = std::make_shared<TicketKeys>(options.ticket_keys);
  } else if (!options.ticket_keys.empty()) {
    throw TlsError("ticket_keys need session_tickets");
  }
}

TlsDescription::TlsDescription(const TlsServerOptions& options) : is_server(true) {
  if (options.certificate_file.empty()) {
    throw TlsError("certificate_file must be given: a server needs a certificate");
  }
  ReadCommon(options);
  verify = options.verify;
  if (verify != TlsVerify::kNone && authorities.empty()) {
    throw TlsError("verify needs ca_file: the authorities that clients' certificates come from");
  }
  if (verify == TlsVerify::kNone && !authorities.empty()) {
    throw TlsError(
        "ca_file needs verify, which is 'required' or 'optional': without it no client is asked "
        "for a certificate, and everybody is let in");
  }
  ReadSni(options);
  ReadTicketKeys(options);
}

TlsDescription::TlsDescription(const TlsClientOptions& options) : is_server(false) {
  ReadCommon(options);
  ReadServerName(options.server_name);
  verify = options.verify ? TlsVerify::kRequired : TlsVerify::kNone;
  if (options.verify && authorities.empty()) system_authorities = SystemAuthorities();
}

TlsDescription::~TlsDescription() = default;

const SslContext& TlsDescription::ContextOf(std::size_t shard) {
  {
    const MutexLock lock(mutex_);
    if (shard < contexts_.size() && contexts_[shard] != nullptr) return *contexts_[shard];
  }
  // Made without the lock, as it takes long. When two threads make one at a time, one is dropped.
  auto made = std::make_unique<const SslContext>(*this, shard);
  const MutexLock lock(mutex_);
  if (contexts_.size() <= shard) contexts_.resize(shard + 1);
  if (contexts_[shard] == nullptr) contexts_[shard].swap(made);
  return *contexts_[shard];
}

std::string TlsDescription::DescribeInvalid() const {
  const CleanErrors clean;
  for (std::size_t i = 0; i < chain.size(); ++i) {
    const ASN1_TIME* const from = X509_get0_notBefore(chain[i].get());
    const ASN1_TIME* const to = X509_get0_notAfter(chain[i].get());
    const bool early = X509_cmp_current_time(from) > 0;
    if (!early && X509_cmp_current_time(to) > 0) continue;
    const std::string number = chain.size() == 1 ? "" : " (number " + std::to_string(i + 1) + ")";
    return "the certificate in '" + certificate_file + "'" + number +
           (early ? " is not valid before " : " has expired: it was valid until ") +
           ShowTime(early ? from : to) + ", so that peers will refuse it";
  }
  return {};
}

std::string Tls::certificate_warning() const {
  return description_ == nullptr ? std::string() : description_->DescribeInvalid();
}

bool Tls::is_server() const { return description_ != nullptr && description_->is_server; }

// The first context is made here: OpenSSL alone can check some of the options.
Tls Tls::Server(const TlsServerOptions& options) {
  Tls tls(std::make_shared<TlsDescription>(options));
  static_cast<void>(tls.description_->ContextOf(0));
  return tls;
}

Tls Tls::Client(const TlsClientOptions& options) {
  Tls tls(std::make_shared<TlsDescription>(options));
  static_cast<void>(tls.description_->ContextOf(0));
  return tls;
}

TlsLibraryInfo TlsLibrary() { return {true, OpenSSL_version(OPENSSL_VERSION), ""}; }

}  // namespace iocp
