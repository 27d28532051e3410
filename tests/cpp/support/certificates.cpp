#include "support/certificates.h"

#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <atomic>
#include <fstream>
#include <random>
#include <stdexcept>

namespace iocp::testing {
namespace {

void Must(bool done) {
  if (!done) throw std::runtime_error("OpenSSL does not make a certificate");
}

EVP_PKEY* NewKey(bool ed25519) {
  EVP_PKEY* const key =
      ed25519 ? EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519") : EVP_EC_gen("P-256");
  Must(key != nullptr);
  return key;
}

// The text that `write(bio)` writes.
template <typename Write>
std::string Text(Write write) {
  BIO* const bio = BIO_new(BIO_s_mem());
  Must(bio != nullptr);
  Must(write(bio) == 1);
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  std::string text(data, static_cast<std::size_t>(size));
  BIO_free(bio);
  return text;
}

std::string CertificateText(X509* certificate) {
  return Text([&](BIO* bio) { return PEM_write_bio_X509(bio, certificate); });
}

void AddExtension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str());
  Must(extension != nullptr);
  Must(X509_add_ext(certificate, extension, -1) == 1);
  X509_EXTENSION_free(extension);
}

X509* NewCertificate(const CertificateOptions& options, EVP_PKEY* key) {
  static std::atomic<long> serial{1};
  X509* const certificate = X509_new();
  Must(certificate != nullptr);
  Must(X509_set_version(certificate, 2) == 1);
  Must(ASN1_INTEGER_set(X509_get_serialNumber(certificate), ++serial) == 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate), options.valid_from);
  X509_gmtime_adj(X509_getm_notAfter(certificate), options.valid_from + options.valid_for);
  Must(X509_set_pubkey(certificate, key) == 1);
  const auto* const name = reinterpret_cast<const unsigned char*>(options.name.c_str());
  Must(X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_UTF8, name, -1,
                                  -1, 0) == 1);
  return certificate;
}

void Sign(X509* certificate, EVP_PKEY* with, bool ed25519) {
  Must(X509_sign(certificate, with, ed25519 ? nullptr : EVP_sha256()) > 0);
}

}  // namespace

TemporaryFolder::TemporaryFolder() {
  std::random_device random;
  path_ = std::filesystem::temp_directory_path() /
          ("iocp-test-" + std::to_string(random()) + "-" + std::to_string(random()));
  std::filesystem::create_directory(path_);
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TemporaryFolder::Write(const std::string& name, std::string_view text) const {
  std::ofstream(path_ / name, std::ios::binary) << text;
  return Path(name);
}

Authority::Authority(const std::string& name, bool ed25519) : key_(NewKey(ed25519)) {
  CertificateOptions options;
  options.name = name;
  own_ = NewCertificate(options, key_);
  Must(X509_set_issuer_name(own_, X509_get_subject_name(own_)) == 1);
  AddExtension(own_, own_, NID_basic_constraints, "critical,CA:TRUE");
  AddExtension(own_, own_, NID_key_usage, "critical,keyCertSign,cRLSign");
  AddExtension(own_, own_, NID_subject_key_identifier, "hash");
  Sign(own_, key_, ed25519);
  certificate_ = CertificateText(own_);
}

Authority::~Authority() {
  X509_free(own_);
  EVP_PKEY_free(key_);
}

Identity Authority::Issue(const CertificateOptions& options) const {
  EVP_PKEY* const key = NewKey(options.ed25519);
  X509* const certificate = NewCertificate(options, key);
  Must(X509_set_issuer_name(certificate, X509_get_subject_name(own_)) == 1);
  AddExtension(certificate, own_, NID_basic_constraints, "CA:FALSE");
  std::string names = options.for_its_name ? "DNS:" + options.name : "";
  if (!options.address.empty()) names += (names.empty() ? "IP:" : ",IP:") + options.address;
  AddExtension(certificate, own_, NID_subject_alt_name, names);
  AddExtension(certificate, own_, NID_authority_key_identifier, "keyid");
  Sign(certificate, key_, EVP_PKEY_get_id(key_) == EVP_PKEY_ED25519);
  Identity identity;
  identity.certificate = CertificateText(certificate);
  identity.key = Text([&](BIO* bio) {
    if (options.password.empty()) {
      return PEM_write_bio_PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr);
    }
    std::string password = options.password;
    return PEM_write_bio_PrivateKey(bio, key, EVP_aes_256_cbc(),
                                    reinterpret_cast<unsigned char*>(password.data()),
                                    static_cast<int>(password.size()), nullptr, nullptr);
  });
  X509_free(certificate);
  EVP_PKEY_free(key);
  return identity;
}

Certificates::Certificates(bool ed25519)
    : ed25519_(ed25519),
      authority_("test authority", ed25519),
      ca_file_(folder_.Write("ca.pem", authority_.certificate())) {
  CertificateOptions server;
  server.address = "127.0.0.1";
  Issue("server", server);
  CertificateOptions client;
  client.name = "client";
  Issue("client", client);
}

void Certificates::Issue(const std::string& file, const CertificateOptions& options) const {
  CertificateOptions kind = options;
  kind.ed25519 = ed25519_;
  const Identity identity = authority_.Issue(kind);
  static_cast<void>(folder_.Write(file + ".pem", identity.certificate));
  static_cast<void>(folder_.Write(file + ".key", identity.key));
}

TlsServerOptions Certificates::Server(const std::string& file) const {
  TlsServerOptions options;
  options.certificate_file = folder_.Path(file + ".pem");
  options.key_file = folder_.Path(file + ".key");
  return options;
}

TlsClientOptions Certificates::Client() const {
  TlsClientOptions options;
  options.ca_file = ca_file_;
  options.server_name = "localhost";
  return options;
}

TlsClientOptions Certificates::ClientWith(const std::string& file) const {
  TlsClientOptions options = Client();
  options.certificate_file = folder_.Path(file + ".pem");
  options.key_file = folder_.Path(file + ".key");
  return options;
}

}  // namespace iocp::testing
