#include "stage/tls/pem.h"

#include <openssl/pem.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <new>
#include <string_view>
#include <system_error>

#include "iocp/tls.h"

namespace iocp {
namespace {

constexpr std::size_t kLargestFile = std::size_t{16} * 1024 * 1024;

std::string Quoted(const char* option, const std::string& file) {
  return std::string(option) + " '" + file + "'";
}

std::FILE* OpenFile(const std::string& file) {
#ifdef _WIN32
  const std::u8string name(file.begin(), file.end());
  return ::_wfopen(std::filesystem::path(name).c_str(), L"rb");
#else
  return std::fopen(file.c_str(), "rbe");
#endif
}

[[noreturn]] void RefuseFile(const char* option, const std::string& file, int code) {
  throw TlsError(Quoted(option, file) + " cannot be read: " + std::generic_category().message(code),
                 file, code);
}

// Wipes memory before it gives it back.
template <typename T>
struct WipingAllocator {
  using value_type = T;
  WipingAllocator() = default;
  template <typename Other>
  explicit WipingAllocator(const WipingAllocator<Other>&) {}
  T* allocate(std::size_t count) { return std::allocator<T>().allocate(count); }
  void deallocate(T* memory, std::size_t count) {
    OPENSSL_cleanse(memory, count * sizeof(T));
    std::allocator<T>().deallocate(memory, count);
  }
  bool operator==(const WipingAllocator&) const = default;
};
using Text = std::vector<char, WipingAllocator<char>>;  // it may hold a key

// No other copy of the text is left in memory.
Text ReadFile(const char* option, const std::string& file) {
  if (file.find('\0') != std::string::npos) {
    throw TlsError(std::string(option) + " must not contain NUL");
  }
  // The text may be a key, and must not be in an error.
  if (file.find("-----BEGIN") != std::string::npos) {
    throw TlsError(std::string(option) +
                   " is the name of a file, and was given the text of one: write the text to a "
                   "file, and give its name");
  }
  struct Close {
    void operator()(std::FILE* open) const { std::fclose(open); }
  };
  const std::unique_ptr<std::FILE, Close> open(OpenFile(file));
  if (open == nullptr) RefuseFile(option, file, errno);
  std::setvbuf(open.get(), nullptr, _IONBF, 0);
  constexpr std::size_t kStep = 16384;
  Text text;
  for (std::size_t got = kStep; got == kStep;) {
    const std::size_t before = text.size();
    text.resize(before + kStep);
    got = std::fread(text.data() + before, 1, kStep, open.get());
    text.resize(before + got);
    if (text.size() > kLargestFile) {
      throw TlsError(
          Quoted(option, file) + " is larger than 16 MiB, so it is not what it should be", file);
    }
  }
  if (std::ferror(open.get()) != 0) RefuseFile(option, file, errno);
  return text;
}

BioPtr Reader(const Text& text) {
  BioPtr bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  if (bio == nullptr) throw std::bad_alloc();
  return bio;
}

// The outermost part of each certificate and key in DER is a long sequence.
std::string HintAtDer(const Text& text, const char* command) {
  const bool der = text.size() > 2 && text[0] == '\x30' && (text[1] & '\x80') != 0;
  if (!der) return {};
  return std::string("; it seems to be in DER: convert it with ") + command + " -inform DER";
}

struct Password {
  const std::string& text;
  bool asked = false;  // true exactly when OpenSSL has asked for it

  static int Give(char* to, int size, int, void* self) {
    auto& password = *static_cast<Password*>(self);
    password.asked = true;
    if (password.text.empty() || password.text.size() > static_cast<std::size_t>(size)) return -1;
    return static_cast<int>(password.text.copy(to, password.text.size()));
  }
};

}  // namespace

std::string OpenSslReason() {
  const unsigned long error = ERR_peek_last_error();
  if (ERR_GET_REASON(error) == ERR_R_MALLOC_FAILURE) throw std::bad_alloc();
  const char* const reason = ERR_reason_error_string(error);
  return reason == nullptr ? "error " + std::to_string(error) : reason;
}

std::vector<X509Ptr> ReadCertificates(const char* option, const std::string& file) {
  const CleanErrors clean;
  const Text text = ReadFile(option, file);
  const BioPtr bio = Reader(text);
  std::vector<X509Ptr> certificates;
  // It skips other parts of the file, such as a key.
  while (X509Ptr certificate{PEM_read_bio_X509_AUX(bio.get(), nullptr, nullptr, nullptr)}) {
    certificates.push_back(std::move(certificate));
  }
  const bool at_end = ERR_GET_LIB(ERR_peek_last_error()) == ERR_LIB_PEM &&
                      ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  if (!at_end) {
    throw TlsError(
        Quoted(option, file) + " holds a certificate that cannot be read: " + OpenSslReason(),
        file);
  }
  if (certificates.empty()) {
    throw TlsError(Quoted(option, file) + " holds no certificate in PEM format" +
                       HintAtDer(text, "openssl x509"),
                   file);
  }
  return certificates;
}

EvpKeyPtr ReadKey(const char* option, const std::string& file, const std::string& password) {
  const CleanErrors clean;
  const Text text = ReadFile(option, file);
  const BioPtr bio = Reader(text);
  Password asking{password};
  EvpKeyPtr key(PEM_read_bio_PrivateKey(bio.get(), nullptr, &Password::Give, &asking));
  if (key != nullptr) return key;
  // When memory runs out, OpenSSL goes on with other formats of keys, and its last error is another
  // one. No bytes in a file cause a fatal error.
  while (const unsigned long error = ERR_get_error()) {
    if (ERR_FATAL_ERROR(error)) throw std::bad_alloc();
  }
  std::string why;
  if (asking.asked && password.empty()) {
    why = " holds an encrypted key: give its password";
  } else if (asking.asked) {
    why = " holds an encrypted key that the password does not open";
  } else {
    why = " holds no private key in PEM format that can be read" + HintAtDer(text, "openssl pkey");
    if (std::string_view(option) == "certificate_file") why += "; give key_file if it is elsewhere";
  }
  throw TlsError(Quoted(option, file) + why, file);
}

}  // namespace iocp
