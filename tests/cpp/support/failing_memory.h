// A heap, of C++ and of OpenSSL, of which one allocation fails. A program that links
// failing_memory.cpp has the operators new and delete and OpenSSL's functions replaced.
#pragma once

namespace iocp::testing {

// While one lives `*count` allocations of this thread succeed; then one fails, or with `for_good`
// all that follow. Only one lives at a time. Afterwards `*count` has those that were left, and is
// less than 0 when one has failed and not for good. With `of_openssl` only OpenSSL's functions
// count and fail.
class FailingMemory {
 public:
  FailingMemory(long* count, bool for_good, bool of_openssl = false);
  FailingMemory(const FailingMemory&) = delete;
  FailingMemory& operator=(const FailingMemory&) = delete;
  ~FailingMemory();

  // True exactly when one has failed since Forget.
  static bool failed();
  static void Forget();
  // True exactly when OpenSSL's functions are replaced, too.
  static bool replaces();

 private:
  long* const count_;
};

}  // namespace iocp::testing
