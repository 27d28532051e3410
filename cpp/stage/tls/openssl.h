// OpenSSL's objects with owners. Only the files that include this know of OpenSSL.
#pragma once

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <memory>

namespace iocp {

template <auto kFree>
struct FreeWith {
  template <typename Object>
  void operator()(Object* object) const {
    kFree(object);
  }
};

using BioPtr = std::unique_ptr<BIO, FreeWith<&BIO_free>>;
using EvpKeyPtr = std::unique_ptr<EVP_PKEY, FreeWith<&EVP_PKEY_free>>;
using SslCtxPtr = std::unique_ptr<SSL_CTX, FreeWith<&SSL_CTX_free>>;
using SslPtr = std::unique_ptr<SSL, FreeWith<&SSL_free>>;
using X509Ptr = std::unique_ptr<X509, FreeWith<&X509_free>>;
using X509StorePtr = std::unique_ptr<X509_STORE, FreeWith<&X509_STORE_free>>;

// OpenSSL has one queue of errors for each thread, and hooks may use OpenSSL too. So this empties
// it at the beginning and at the end.
class CleanErrors {
 public:
  CleanErrors() { Clear(); }
  CleanErrors(const CleanErrors&) = delete;
  CleanErrors& operator=(const CleanErrors&) = delete;
  ~CleanErrors() { Clear(); }

 private:
  // A look costs less than clearing.
  static void Clear() {
    if (ERR_peek_error() != 0) ERR_clear_error();
  }
};

}  // namespace iocp
