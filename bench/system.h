// The parts of the system that server_echo needs: system_linux.cpp, system_windows.cpp.
#pragma once

#include <cstddef>

namespace bench {

// Before any other thread runs: sees to it that WaitForEnd hears of signals, and that there may be
// as many connections as the system allows. False, with a line on stderr, when it cannot.
bool Prepare();

// Returns when the standard input ends; on Linux at SIGTERM and SIGINT as well.
void WaitForEnd();

// Computes the SHA-256 of some bytes, for the time that it takes.
void Hash(const unsigned char* data, std::size_t size);

}  // namespace bench
