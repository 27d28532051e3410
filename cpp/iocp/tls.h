// TLS: what a server or a client shows to its peers, and whom it trusts.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "iocp/time.h"

namespace iocp {

// The library that does the cryptography.
struct TlsLibraryInfo {
  bool available = false;
  std::string version;  // as the library names itself; "" when it is not available
  std::string reason;   // why not, in words a user can act on; "" when available
};
TlsLibraryInfo TlsLibrary();

// Why a Tls cannot be made, in a sentence that names the file or the option.
class TlsError : public std::runtime_error {
 public:
  explicit TlsError(const std::string& sentence, std::string file = {}, int code = 0)
      : std::runtime_error(sentence), file_(std::move(file)), code_(code) {}

  // The file that is wrong; "" where an option is.
  [[nodiscard]] const std::string& file() const { return file_; }
  // errno, where the file could not be read; otherwise 0.
  [[nodiscard]] int code() const { return code_; }

 private:
  std::string file_;
  int code_;
};

enum class TlsVersion : std::uint8_t { kTls12, kTls13 };

// Whether a server asks its clients for a certificate.
enum class TlsVerify : std::uint8_t {
  kNone,      // no
  kOptional,  // yes; a client may come without one, but not with one that is not trusted
  kRequired,  // yes; a client without a trusted one is refused
};

struct TlsServerOptions;
struct TlsClientOptions;
class TlsDescription;

// One side of TLS. Immutable and cheap to copy; any number of servers, connections and threads
// share one. It keeps what it has read from files, so these may change or go.
class Tls {
 public:
  // None: no TLS.
  Tls() = default;
  // Both read all files, check everything, and throw TlsError, or std::bad_alloc. In a library
  // without TLS, see TlsLibrary, they throw TlsError.
  static Tls Server(const TlsServerOptions& options);
  static Tls Client(const TlsClientOptions& options);

  // False exactly when this is none.
  explicit operator bool() const { return description_ != nullptr; }
  // True exactly when Server has made it.
  [[nodiscard]] bool is_server() const;
  // Why peers will refuse the certificates that were read, in a sentence: one of them has expired,
  // or is not valid yet, when this is called. "" when they are valid, and when there is none.
  [[nodiscard]] std::string certificate_warning() const;
  // True exactly when they are copies of one another.
  bool operator==(const Tls& other) const = default;

  // For the engine.
  [[nodiscard]] const std::shared_ptr<TlsDescription>& description() const { return description_; }

 private:
  explicit Tls(std::shared_ptr<TlsDescription> description)
      : description_(std::move(description)) {}

  std::shared_ptr<TlsDescription> description_;
};

// Names of files are UTF-8; the files are PEM.
struct TlsServerOptions {
  // The certificate, and behind it those that lead to an authority that clients know.
  std::string certificate_file;
  // Its private key; "": it is in certificate_file.
  std::string key_file;
  std::string password;  // of the key, when it is encrypted
  // Certificates of the authorities that clients' certificates may come from. Needed for verify,
  // and refused without it, when it would let everybody in.
  std::string ca_file;
  TlsVerify verify = TlsVerify::kNone;
  // Names of protocols (ALPN), the one that the server likes best first, of 1 to 255 bytes each. A
  // client that offers only other names is refused. Empty: no protocol is chosen.
  std::vector<std::string> alpn;
  TlsVersion min_version = TlsVersion::kTls12;
  std::optional<TlsVersion> max_version;  // none: the newest that the library has
  // A list in OpenSSL's form, with colons between. Names that begin with TLS_ are suites of TLS
  // 1.3; everything else is for TLS 1.2. "": those with forward secrecy and authenticated
  // encryption.
  std::string ciphers;
  // The Tls for clients that ask for one of these host names. `*.example.org` stands for each name
  // with one more label. All other clients, and those that ask for no name, get the options above.
  // In a Tls of this map handshake_timeout, allow_truncation and sni have no effect.
  std::map<std::string, Tls> sni;
  // Whether clients may resume a session, also on another worker.
  bool session_tickets = true;
  // Ticket keys, 48 or 80 random bytes each, as in nginx: the first encrypts, all decrypt.
  // Processes that share them and the certificate resume each other's sessions. Empty: keys of its
  // own. There is a new one each hour, which decrypts for two hours more.
  std::vector<std::string> ticket_keys;
  // How long a client may take for its handshake: more than 0, at most a year. A client that takes
  // longer is closed.
  Duration handshake_timeout = std::chrono::seconds(10);
  // Whether a stream that ends without the end of TLS (close_notify) is an orderly end. Somebody on
  // the way can cut such a stream off, and nobody notices.
  bool allow_truncation = false;
};

struct TlsClientOptions {
  // Certificates of the authorities that the server's may come from; "": those of the system.
  std::string ca_file;
  // Whether the server's certificate is checked: that it comes from one of the authorities, that it
  // is valid now, and that it is for `server_name`.
  bool verify = true;
  // A host name or an IP address. A host name is sent to the server; an address is not. Needed for
  // verify.
  std::string server_name;
  // The client's own certificate, for a server that asks for one; "": none.
  std::string certificate_file;
  std::string key_file;
  std::string password;
  std::vector<std::string> alpn;  // the one that the client likes best first
  TlsVersion min_version = TlsVersion::kTls12;
  std::optional<TlsVersion> max_version;
  std::string ciphers;
  Duration handshake_timeout = std::chrono::seconds(10);
  bool allow_truncation = false;
};

// The result of a handshake.
struct TlsInfo {
  std::string version;           // "TLSv1.3"
  std::string cipher;            // "TLS_AES_256_GCM_SHA384"
  std::string alpn;              // the protocol; "": none was chosen
  std::string server_name;       // the host name that was asked for, in lower case; "": none
  std::string peer_certificate;  // DER; "": the peer has shown none
  bool resumed = false;          // true exactly when an earlier session was resumed
};

// Why a handshake came to nothing.
enum class TlsFailure : std::uint8_t {
  kTimeout,      // handshake_timeout, or another one of the connection
  kPeerLeft,     // the peer ended or broke the connection
  kProtocol,     // what it sent is no TLS, or nothing that this side accepts
  kCertificate,  // its certificate is missing, or is not trusted
  kRefused,      // the peer has refused: it sent an alert
  kResources,    // there was no memory
  kClosed,       // this side closed the connection, as a server that stops does
};
inline constexpr std::size_t kTlsFailures = 7;

}  // namespace iocp
