// What the engine asks of the C library's heap.
#pragma once

namespace iocp {

// glibc returns memory to the system as soon as 128 KiB at the end of a heap are free, and gets it
// back page by page: where the messages of a batch amount to more, every batch pays for that with
// page faults, several times what the batch itself costs. It becomes patient (2 MiB) once a program
// has freed something larger that it had mapped on its own. Programs do so sooner or later, by
// chance; this does it on purpose. A program that has set M_TRIM_THRESHOLD or M_MMAP_THRESHOLD
// keeps what it set. Harmless where the heap is another. Any thread.
void KeepHeapWarm();

}  // namespace iocp
