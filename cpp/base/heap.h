// What the engine asks of the heap.
#pragma once

#include <cstddef>
#include <new>

namespace iocp {

// Raw memory, for received bytes and for sends. By the operators, which a program can replace to
// count what is allocated, or to have it fail. Null when there is none.
inline void* AllocateBytes(std::size_t size) noexcept { return ::operator new(size, std::nothrow); }
inline void FreeBytes(void* memory) noexcept { ::operator delete(memory); }

// glibc returns memory to the system as soon as 128 KiB at the end of a heap are free, and gets it
// back page by page: where the messages of a batch amount to more, every batch pays for that with
// page faults, several times what the batch itself costs. It becomes patient (2 MiB) once a program
// has freed something larger that it had mapped on its own. Programs do so sooner or later, by
// chance; this does it on purpose. A program that has set M_TRIM_THRESHOLD or M_MMAP_THRESHOLD
// keeps what it set. Harmless where the heap is another. Any thread.
void KeepHeapWarm();

}  // namespace iocp
