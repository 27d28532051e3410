// A heap, of C++ and of OpenSSL, of which one allocation fails. A program that links
// failing_memory.cpp has the operators new and delete and OpenSSL's functions replaced.
#pragma once

namespace iocp::testing {

// While one lives `*count` allocations of this thread succeed; then one fails, or all do from there
// on, `for_good`. One at a time; afterwards `*count` is what was left, less than 0 once one has
// failed that was not for good. With `of_openssl` OpenSSL's functions alone count, and fail.
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
