// Why a connection ended.
#pragma once

#include <cstddef>
#include <cstdint>

namespace iocp {

enum class CloseReason : std::uint8_t {
  kPeerClosed,        // the peer ended its stream
  kLocalClose,        // Close
  kLocalAbort,        // Abort
  kError,             // an error; OnConnectionError reported it
  kFirstDataTimeout,  // Options::first_data_timeout
  kIdleTimeout,       // Options::idle_timeout, or the connection's own
  kWriteTimeout,      // Options::write_timeout
  kShutdown,          // Shutdown closed it
  kHookError,         // an exception left a hook
  kReceiveTimeout,    // Options::receive_timeout, or the connection's own
  kFrameError,        // the peer sent bytes that are no message; OnConnectionError reported it
  kMessageTimeout,    // Options::message_timeout
  kHandshakeTimeout,  // handshake_timeout of TlsServerOptions or TlsClientOptions, after StartTls
};
inline constexpr std::size_t kCloseReasons = 13;

}  // namespace iocp
