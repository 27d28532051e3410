// Memory from the heap, and how the heap keeps it.
#pragma once

#include <cstddef>
#include <new>

namespace iocp {

// Raw memory, for received bytes and for sends. It comes from the operators, which a program can
// replace to count allocations or to make them fail. Null when there is none.
inline void* AllocateBytes(std::size_t size) noexcept { return ::operator new(size, std::nothrow); }
inline void FreeBytes(void* memory) noexcept { ::operator delete(memory); }

// glibc returns memory to the system as soon as 128 KiB at the end of a heap are free, and gets it
// back page by page. Where the messages of a batch are larger than that together, every batch pays
// with page faults that cost several times as much as the batch. glibc raises the limit to 2 MiB
// once a program has freed a larger block that was mapped on its own. Programs do so sooner or
// later, by chance; this does it on purpose. A program that has set M_TRIM_THRESHOLD or
// M_MMAP_THRESHOLD keeps its setting. Harmless with any other heap. Any thread.
void KeepHeapWarm();

}  // namespace iocp
