/*
 * A disk that fails on demand, for tests: loaded into the gateway with LD_PRELOAD.
 *
 * While the file PORTCULLIS_FAULT_FLAG exists, whatever would write to a file below PORTCULLIS_FAULT_DIR fails with the
 * error that the file names: EIO, as of a broken disk, or EROFS, as of one that the kernel has made read-only.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* The error that is to be made now, or 0. By system calls, which nobody intercepts. */
static int fault(void) {
    const char *flag = getenv("PORTCULLIS_FAULT_FLAG");
    int fd = flag ? (int)syscall(SYS_openat, AT_FDCWD, flag, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return 0;
    char word[8] = {0};
    ssize_t length = syscall(SYS_read, fd, word, sizeof word - 1);
    syscall(SYS_close, fd);
    if (length <= 0)
        return 0;
    return strncmp(word, "EROFS", 5) == 0 ? EROFS : EIO;
}

static int is_below(const char *path) {
    const char *dir = getenv("PORTCULLIS_FAULT_DIR");
    size_t length = dir ? strlen(dir) : 0;
    return length && strncmp(path, dir, length) == 0 && (path[length] == '/' || path[length] == 0);
}

/* Whether writing to this descriptor is to fail; errno says how. */
static int fails(int fd) {
    char link[64], path[PATH_MAX];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length > 0) {
        path[length] = 0;
        int error = is_below(path) ? fault() : 0;
        if (error) {
            errno = error;
            return 1;
        }
    }
    errno = before;
    return 0;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *bytes, size_t length) {
    return fails(fd) ? -1 : NEXT(write)(fd, bytes, length);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    return fails(fd) ? -1 : NEXT(writev)(fd, parts, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
    return fails(fd) ? -1 : NEXT(pwrite)(fd, bytes, length, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
    return fails(fd) ? -1 : NEXT(pwrite64)(fd, bytes, length, at);
}

int fsync(int fd) {
    return fails(fd) ? -1 : NEXT(fsync)(fd);
}

int fdatasync(int fd) {
    return fails(fd) ? -1 : NEXT(fdatasync)(fd);
}

int ftruncate(int fd, off_t length) {
    return fails(fd) ? -1 : NEXT(ftruncate)(fd, length);
}

int ftruncate64(int fd, off64_t length) {
    return fails(fd) ? -1 : NEXT(ftruncate64)(fd, length);
}
