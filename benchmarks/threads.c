// Moves rows between a file and memory with threads that wait for no lock of Python's.
#include <pthread.h>
#include <stdint.h>
#include <unistd.h>

enum { kThreads = 16 };

struct Part {
  int file, writing;
  const int64_t* rows;  // (n)
  int64_t n, begin;     // every kThreads-th from `begin`
  size_t row_bytes;
  char* data;  // (n, row_bytes)
};

static void* Move(void* argument) {
  const struct Part* part = argument;
  for (int64_t i = part->begin; i < part->n; i += kThreads) {
    char* row = part->data + i * part->row_bytes;
    const off_t offset = part->rows[i] * (off_t)part->row_bytes;
    const ssize_t moved = part->writing ? pwrite(part->file, row, part->row_bytes, offset)
                                        : pread(part->file, row, part->row_bytes, offset);
    if (moved != (ssize_t)part->row_bytes) _exit(1);
  }
  return NULL;
}

void MoveRows(int file, int writing, const int64_t* rows, int64_t n, size_t row_bytes, char* data) {
  pthread_t threads[kThreads];
  struct Part parts[kThreads];
  for (int t = 0; t < kThreads; ++t) {
    parts[t] = (struct Part){file, writing, rows, n, t, row_bytes, data};
    if (pthread_create(&threads[t], NULL, Move, &parts[t]) != 0) _exit(1);
  }
  for (int t = 0; t < kThreads; ++t) pthread_join(threads[t], NULL);
}
