// Errors: how an operation failed, and why Start failed.
#pragma once

#include <cstdint>
#include <string>

namespace iocp {

// The kinds of error, the same on every system; Error::code holds the system's own number.
enum class ErrorKind : std::uint8_t {
  kNone,
  kEndOfStream,     // the peer ended its stream in order
  kReset,           // the peer, or the network, broke the connection
  kCancelled,       // we cancelled the operation ourselves
  kTimedOut,        // the system gave up on a silent peer
  kClientGone,      // a client left before its connection was accepted
  kOutOfResources,  // descriptors, buffers or memory are exhausted for now
  kAddressInUse,
  kAddressUnavailable,
  kAccessDenied,
  kInvalidArgument,
  kUnsupported,
  kBadFrame,   // what was received is no message: see Connection::frame_fault
  kTls,        // TLS has failed; the code is OpenSSL's reason: see Connection::tls_fault
  kTruncated,  // the stream has ended without the end of TLS: it may have been cut off
  kOther,
};

struct Error {
  ErrorKind kind = ErrorKind::kNone;
  // errno, or a Winsock code on Windows; 0 where the system named none. kOutOfResources with 0: the
  // engine itself found no memory.
  int code = 0;

  explicit operator bool() const { return kind != ErrorKind::kNone; }
};

// Why Start failed: the step, the system's error, and a sentence that names both and the address.
struct Status {
  enum class Problem : std::uint8_t {
    kNone,
    kBadOption,
    kAlreadyRunning,
    kNoBackend,
    kUnresolved,  // the host has no address; the code is the resolver's: EAI_*, or Winsock's
    kSystem,
  };

  Problem problem = Problem::kNone;
  Error error;
  std::string message;

  [[nodiscard]] bool ok() const { return problem == Problem::kNone; }
};

}  // namespace iocp
