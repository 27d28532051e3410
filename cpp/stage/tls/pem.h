// Certificates and keys, read from files.
#pragma once

#include <string>
#include <vector>

#include "stage/tls/openssl.h"

namespace iocp {

// All throw TlsError, with a sentence that names the file, and std::bad_alloc. `option` is the
// option that has named it.

// At least one.
std::vector<X509Ptr> ReadCertificates(const char* option, const std::string& file);
EvpKeyPtr ReadKey(const char* option, const std::string& file, const std::string& password);

// Throws std::bad_alloc if OpenSSL has just found no memory. The last of its errors, in words.
std::string OpenSslReason();

}  // namespace iocp
