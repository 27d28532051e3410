// Certificates and keys, read from files.
#pragma once

#include <string>
#include <vector>

#include "stage/tls/openssl.h"

namespace iocp {

// Both throw TlsError, with a sentence that names the file, and std::bad_alloc. `option` is the
// name of the option that the file comes from.

// Returns at least one.
std::vector<X509Ptr> ReadCertificates(const char* option, const std::string& file);
EvpKeyPtr ReadKey(const char* option, const std::string& file, const std::string& password);

// The last of OpenSSL's errors, in words. Throws std::bad_alloc when it is that memory ran out.
std::string OpenSslReason();

}  // namespace iocp
