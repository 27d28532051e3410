// Certificates for tests, made when a test needs them, and gone with it.
#pragma once

#include <iocp/tls.h>
#include <openssl/evp.h>
#include <openssl/x509.h>

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace iocp::testing {

// A folder of its own, which goes with the object.
class TemporaryFolder {
 public:
  TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder();

  // Writes a file; returns its name with its path.
  [[nodiscard]] std::string Write(const std::string& name, std::string_view text) const;
  [[nodiscard]] std::string Path(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

struct CertificateOptions {
  std::string name = "localhost";  // the subject, and a host name
  bool for_its_name = true;        // whether it is for a host of that name
  std::string address;             // an IP address that it is for; "": none
  long valid_from = -3600;         // seconds from now
  long valid_for = 24L * 3600;     // seconds from then
  std::string password;            // of the key's file; "": it is not encrypted
  bool ed25519 = false;            // the kind of the key; otherwise it is P-256
};

// A certificate and its key, as PEM.
struct Identity {
  std::string certificate;
  std::string key;
};

// Signs certificates of others. Its own is signed by itself.
class Authority {
 public:
  explicit Authority(const std::string& name = "test authority", bool ed25519 = false);
  Authority(const Authority&) = delete;
  Authority& operator=(const Authority&) = delete;
  ~Authority();

  [[nodiscard]] Identity Issue(const CertificateOptions& options = {}) const;
  [[nodiscard]] const std::string& certificate() const { return certificate_; }

 private:
  EVP_PKEY* key_;
  X509* own_;
  std::string certificate_;
};

// An authority, what it has issued, and the files of both: what most tests need.
class Certificates {
 public:
  explicit Certificates(bool ed25519 = false);

  [[nodiscard]] const TemporaryFolder& folder() const { return folder_; }
  [[nodiscard]] const Authority& authority() const { return authority_; }
  [[nodiscard]] const std::string& ca_file() const { return ca_file_; }
  // Writes the files that begin with `file`.
  void Issue(const std::string& file, const CertificateOptions& options) const;

  // A server with a certificate for localhost.
  [[nodiscard]] TlsServerOptions Server() const { return Server("server"); }
  [[nodiscard]] TlsServerOptions Server(const std::string& file) const;
  // A client that knows the authority, and asks for localhost.
  [[nodiscard]] TlsClientOptions Client() const;
  // The same with a certificate of its own.
  [[nodiscard]] TlsClientOptions ClientWith(const std::string& file) const;

 private:
  const TemporaryFolder folder_;
  const bool ed25519_;
  const Authority authority_;
  const std::string ca_file_;
};

}  // namespace iocp::testing
