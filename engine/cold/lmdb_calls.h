/* Included before the first line of mdb.c: LMDB's calls that change files go through Env.
 *
 * What LMDB does not call in the ways we open it (msync, write) is left alone. */
#ifndef RECIS_COLD_LMDB_CALLS_H_
#define RECIS_COLD_LMDB_CALLS_H_

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <fcntl.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif
int recis_lmdb_open(const char* path, int flags, mode_t mode);
ssize_t recis_lmdb_pwrite(int fd, const void* data, size_t bytes, off_t offset);
ssize_t recis_lmdb_writev(int fd, const struct iovec* parts, int count);
int recis_lmdb_fsync(int fd);
int recis_lmdb_fdatasync(int fd);
int recis_lmdb_ftruncate(int fd, off_t bytes);
#ifdef __cplusplus
}
#else
#define open recis_lmdb_open
#define pwrite recis_lmdb_pwrite
#define writev recis_lmdb_writev
#define fsync recis_lmdb_fsync
#define fdatasync recis_lmdb_fdatasync
#define ftruncate recis_lmdb_ftruncate
#endif

#endif
