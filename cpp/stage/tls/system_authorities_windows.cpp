#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
// after windows.h, and before the headers of OpenSSL, which take back some of its names
#include <wincrypt.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <string_view>
#include <system_error>
#include <vector>

#include "iocp/tls.h"
#include "stage/tls/pem.h"
#include "stage/tls/system_authorities.h"

namespace iocp {
namespace {

struct CloseStore {
  void operator()(HCERTSTORE store) const { ::CertCloseStore(store, 0); }
};
struct FreeCertificate {
  void operator()(PCCERT_CONTEXT certificate) const { ::CertFreeCertificateContext(certificate); }
};
using SystemCertificate = std::unique_ptr<const CERT_CONTEXT, FreeCertificate>;
using SystemStore = std::unique_ptr<void, CloseStore>;

// Authorities may be trusted for some uses only, such as the signing of programs.
bool IsForServers(PCCERT_CONTEXT certificate) {
  DWORD size = 0;
  if (::CertGetEnhancedKeyUsage(certificate, 0, nullptr, &size) == FALSE) return false;
  // The structure, and behind it what it points to.
  std::vector<CERT_ENHKEY_USAGE> memory(size / sizeof(CERT_ENHKEY_USAGE) + 1);
  CERT_ENHKEY_USAGE& uses = memory.front();
  if (::CertGetEnhancedKeyUsage(certificate, 0, &uses, &size) == FALSE) return false;
  if (uses.cUsageIdentifier == 0) {
    // For all, or for none.
    return ::GetLastError() == static_cast<DWORD>(CRYPT_E_NOT_FOUND);
  }
  return std::any_of(uses.rgpszUsageIdentifier, uses.rgpszUsageIdentifier + uses.cUsageIdentifier,
                     [](std::string_view use) { return use == szOID_PKIX_KP_SERVER_AUTH; });
}

}  // namespace

X509StorePtr AuthoritiesOf(void* system_store) {
  const CleanErrors clean;
  X509StorePtr store(X509_STORE_new());
  if (store == nullptr) throw std::bad_alloc();
  SystemCertificate certificate;
  for (;;) {
    // It frees the one before.
    certificate.reset(::CertEnumCertificatesInStore(system_store, certificate.release()));
    if (certificate == nullptr) return store;
    if (!IsForServers(certificate.get())) continue;
    const unsigned char* bytes = certificate->pbCertEncoded;
    const X509Ptr x509(d2i_X509(nullptr, &bytes, static_cast<long>(certificate->cbCertEncoded)));
    // One that OpenSSL cannot read is one that it cannot trust.
    if (x509 == nullptr || X509_STORE_add_cert(store.get(), x509.get()) != 1) {
      static_cast<void>(OpenSslReason());
      ERR_clear_error();
    }
  }
}

X509StorePtr SystemAuthorities() {
  const SystemStore system(::CertOpenSystemStoreW(0, L"ROOT"));
  if (system != nullptr) return AuthoritiesOf(system.get());
  const auto code = static_cast<int>(::GetLastError());
  throw TlsError("the system's certificates cannot be read: " +
                 std::system_category().message(code) + "; name a file with ca_file");
}

}  // namespace iocp
