/* libc's own versions of the calls that this library looks at. */
#ifndef EMUIAVF_REAL_H
#define EMUIAVF_REAL_H

#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>

#define REAL_CALLS(X)                                                                             \
    X(int, open, (const char *, int, ...))                                                        \
    X(int, openat, (int, const char *, int, ...))                                                 \
    X(FILE *, fopen, (const char *, const char *))                                                \
    X(DIR *, opendir, (const char *))                                                             \
    X(int, stat, (const char *, struct stat *))                                                   \
    X(int, lstat, (const char *, struct stat *))                                                  \
    X(int, fstatat, (int, const char *, struct stat *, int))                                      \
    X(int, statx, (int, const char *, int, unsigned, struct statx *))                             \
    X(int, access, (const char *, int))                                                           \
    X(int, faccessat, (int, const char *, int, int))                                              \
    X(ssize_t, readlink, (const char *, char *, size_t))                                          \
    X(ssize_t, readlinkat, (int, const char *, char *, size_t))                                   \
    X(char *, realpath, (const char *, char *))                                                   \
    X(int, close, (int))                                                                          \
    X(int, close_range, (unsigned, unsigned, int))                                                \
    X(int, dup, (int))                                                                            \
    X(int, dup2, (int, int))                                                                      \
    X(int, dup3, (int, int, int))                                                                 \
    X(int, fcntl, (int, int, ...))                                                                \
    X(int, ioctl, (int, unsigned long, ...))                                                      \
    X(ssize_t, pread, (int, void *, size_t, off_t))                                               \
    X(ssize_t, pwrite, (int, const void *, size_t, off_t))                                        \
    X(void *, mmap, (void *, size_t, int, int, int, off_t))                                       \
    X(int, munmap, (void *, size_t))                                                              \
    X(void *, mremap, (void *, size_t, size_t, int, ...))

struct real {
#define X(result, name, arguments) result(*name) arguments;
    REAL_CALLS(X)
#undef X
};

/* Also before any constructor has run. */
const struct real *real(void);

#endif
