// A client that names no authorities trusts those of the system.
// before the headers of OpenSSL, which take back some names of Windows
#include "support/platform.h"
#ifdef _WIN32
#include <wincrypt.h>
#endif

#include <gtest/gtest.h>
#include <openssl/pem.h>

#include <cstdlib>
#include <string>

#include "stage/tls/system_authorities.h"
#include "stage/tls_fixture.h"

namespace iocp::testing {
namespace {

class TlsAuthoritiesTest : public TlsTest {
 protected:
  // With a client that names none.
  void ConnectWithThoseOfTheSystem() {
    TlsClientOptions options = certificates.Client();
    options.ca_file = "";
    Connect(Tls::Server(certificates.Server()), Tls::Client(options));
  }
};

TEST_F(TlsAuthoritiesTest, AServerThatTheyDoNotKnowIsRefused) {
  ConnectWithThoseOfTheSystem();
  EXPECT_EQ(client->error.kind, ErrorKind::kTls);
  EXPECT_FALSE(client->ready());
}

#ifndef _WIN32

TEST_F(TlsAuthoritiesTest, AServerThatTheyKnowIsTrusted) {
  ASSERT_EQ(::setenv("SSL_CERT_FILE", certificates.ca_file().c_str(), 1), 0);
  ConnectWithThoseOfTheSystem();
  ::unsetenv("SSL_CERT_FILE");
  EXPECT_TRUE(client->ready());
  EXPECT_TRUE(server->ready());
}

#else

struct CloseStore {
  void operator()(HCERTSTORE store) const { ::CertCloseStore(store, 0); }
};
using StorePtr = std::unique_ptr<void, CloseStore>;

int CountOf(const X509StorePtr& store) {
  return sk_X509_OBJECT_num(X509_STORE_get0_objects(store.get()));
}

// How many are taken from a store that has the test's authority alone, trusted for `use` alone,
// unless that is null.
int CountFor(const Certificates& certificates, const char* use) {
  const std::string& pem = certificates.authority().certificate();
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  const X509Ptr authority(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  unsigned char* der = nullptr;
  const int size = i2d_X509(authority.get(), &der);
  const StorePtr store(
      ::CertOpenStore(CERT_STORE_PROV_MEMORY, 0, 0, CERT_STORE_CREATE_NEW_FLAG, nullptr));
  PCCERT_CONTEXT certificate = nullptr;
  EXPECT_TRUE(::CertAddEncodedCertificateToStore(store.get(), X509_ASN_ENCODING, der,
                                                 static_cast<DWORD>(size), CERT_STORE_ADD_NEW,
                                                 &certificate));
  OPENSSL_free(der);
  if (use != nullptr) {
    CERT_ENHKEY_USAGE uses{};
    LPSTR names[] = {const_cast<LPSTR>(use)};
    uses.cUsageIdentifier = 1;
    uses.rgpszUsageIdentifier = names;
    EXPECT_TRUE(::CertSetEnhancedKeyUsage(certificate, &uses));
  }
  ::CertFreeCertificateContext(certificate);
  const X509StorePtr taken = AuthoritiesOf(store.get());
  const int count = CountOf(taken);
  if (count == 1) {
    const X509* const first =
        X509_OBJECT_get0_X509(sk_X509_OBJECT_value(X509_STORE_get0_objects(taken.get()), 0));
    EXPECT_EQ(X509_cmp(first, authority.get()), 0);
  }
  return count;
}

TEST_F(TlsAuthoritiesTest, OneIsTrustedForTheUsesThatWindowsTrustsItFor) {
  EXPECT_EQ(CountFor(certificates, nullptr), 1);
  EXPECT_EQ(CountFor(certificates, szOID_PKIX_KP_SERVER_AUTH), 1);
  EXPECT_EQ(CountFor(certificates, szOID_PKIX_KP_CODE_SIGNING), 0);
}

TEST_F(TlsAuthoritiesTest, TheyAreThoseOfTheStoreOfTheSystem) {
  const StorePtr root(::CertOpenSystemStoreW(0, L"ROOT"));
  ASSERT_NE(root, nullptr);
  EXPECT_EQ(CountOf(SystemAuthorities()), CountOf(AuthoritiesOf(root.get())));
  if (IsWine()) return;
  EXPECT_GT(CountOf(SystemAuthorities()), 0);
}

#endif

}  // namespace
}  // namespace iocp::testing
