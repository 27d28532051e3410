// The defaults of the handler's functions.
#include "iocp/handler.h"

#include <exception>
#include <string>

#include "iocp/close_reason.h"
#include "iocp/connection.h"
#include "iocp/timer.h"

namespace iocp {
namespace {

std::string TextOf(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& exception) {
    return exception.what();
  } catch (...) {
    return "something that is no std::exception";
  }
}

}  // namespace

void Handler::OnCallbackError(Connection* connection, CallKind, const std::exception_ptr& error) {
  if (connection != nullptr) {
    connection->Abort(CloseReason::kHookError);
  } else {
    OnWarning("a callback of the server has thrown: " + TextOf(error));
  }
}

}  // namespace iocp
