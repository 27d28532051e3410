// iocp::Server: a TCP server on completion ports. The public C++ API; it includes no system header.
//
// Derive from Handler, override the hooks you need, give it to a Server, call Start:
//
//     struct Echo : iocp::Handler {
//       void OnReadCompleted(iocp::Connection& connection, iocp::Buffer& data) override {
//         connection.Send(data);
//       }
//     };
//
//     Echo echo;
//     iocp::Server server(echo);
//     const iocp::Status status = server.Start({});
//
// Worker threads accept, receive and send; they call the hooks. The grammar of hooks of one
// connection is
//
//     established -> (read | message | write)* -> [end_of_stream] -> (write)* -> [error] -> closing
//
// with exactly one `closing`, last, for every `established`. Hooks of one connection are serial and
// in order; hooks of different connections run in parallel where there are several workers. No hook
// runs under a lock, so a hook may call anything here, Shutdown included. On a worker thread, of
// whichever server, Shutdown and WaitUntilStopped return without waiting: the thread might wait for
// itself.
//
// The hooks and most option defaults come from the classic Windows CIOCPServer.
#pragma once

#include "iocp/address.h"
#include "iocp/backend.h"
#include "iocp/buffer.h"
#include "iocp/close_reason.h"
#include "iocp/connection.h"
#include "iocp/error.h"
#include "iocp/framing.h"
#include "iocp/handler.h"
#include "iocp/keep_alive.h"
#include "iocp/message.h"
#include "iocp/options.h"
#include "iocp/server.h"
#include "iocp/stats.h"
#include "iocp/time.h"
#include "iocp/timer.h"
#include "iocp/tls.h"
