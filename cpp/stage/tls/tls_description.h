// The contents of a Tls: checked options, and the certificates and keys that were read.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "iocp/time.h"
#include "iocp/tls.h"
#include "stage/tls/openssl.h"
#include "stage/tls/ticket_keys.h"

namespace iocp {

class SslContext;

class TlsDescription {
 public:
  // Throw TlsError and std::bad_alloc.
  explicit TlsDescription(const TlsServerOptions& options);
  explicit TlsDescription(const TlsClientOptions& options);
  TlsDescription(const TlsDescription&) = delete;
  TlsDescription& operator=(const TlsDescription&) = delete;
  ~TlsDescription();

  // The context for the shard with that index, always the same one: workers that share none do not
  // wait for each other inside OpenSSL. It lives as long as this. Any thread. Throws TlsError and
  // std::bad_alloc.
  const SslContext& ContextOf(std::size_t shard);

  // See Tls::certificate_warning. Any thread. Throws std::bad_alloc.
  [[nodiscard]] std::string DescribeInvalid() const;

  // All that follow are constant once it is made.
  const bool is_server;
  std::string certificate_file;  // where `chain` was read from
  std::vector<X509Ptr> chain;    // its own certificate first
  EvpKeyPtr key;                 // null exactly when `chain` is empty
  std::vector<X509Ptr> authorities;
  X509StorePtr system_authorities;  // null unless a client trusts the system's
  TlsVerify verify = TlsVerify::kNone;
  std::string alpn;  // as on the wire: each name behind its length
  TlsVersion min_version = TlsVersion::kTls12;
  std::optional<TlsVersion> max_version;
  std::string cipher_list;                                     // of TLS 1.2
  std::string cipher_suites;                                   // of TLS 1.3; "": the library's
  std::map<std::string, std::shared_ptr<TlsDescription>> sni;  // by normal names
  std::shared_ptr<TicketKeys> ticket_keys;                     // null: there are no tickets
  std::string server_name;                                     // of a client: in its normal form
  bool names_address = false;  // true exactly when `server_name` is an IP address
  Duration handshake_timeout{};
  bool allow_truncation = false;

 private:
  template <typename Options>
  void ReadCommon(const Options& options);
  void ReadServerName(const std::string& name);
  void ReadSni(const TlsServerOptions& options);
  void ReadTicketKeys(const TlsServerOptions& options);

  Mutex mutex_;
  std::vector<std::unique_ptr<const SslContext>> contexts_ IOCP_GUARDED_BY(mutex_);
};

}  // namespace iocp
