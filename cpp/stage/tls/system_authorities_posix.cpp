#include <new>

#include "iocp/tls.h"
#include "stage/tls/pem.h"
#include "stage/tls/system_authorities.h"

namespace iocp {

X509StorePtr SystemAuthorities() {
  const CleanErrors clean;
  X509StorePtr store(X509_STORE_new());
  if (store == nullptr) throw std::bad_alloc();
  if (X509_STORE_set_default_paths(store.get()) != 1) {
    throw TlsError("the system's certificates cannot be read: " + OpenSslReason() +
                   "; name a file with ca_file");
  }
  return store;
}

}  // namespace iocp
