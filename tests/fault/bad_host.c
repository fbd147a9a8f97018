/* A host that goes bad under one process (LD_PRELOAD): calls on files below BAD_HOST_ROOT fail, and the wall clock
 * jumps, as the plan says that lies in the file BAD_HOST_PLAN. The test changes the plan while the process runs.
 *
 * The plan holds native 64-bit numbers, see `struct plan` and its counterpart in bad_host.py. Calls of each kind are
 * counted; those from number `first` on fail, `failing` of them, with `error`.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { READS, WRITES, FORCES, KINDS };

static struct plan {
    struct {
        _Atomic int64_t calls, first, failing, error;
    } of[KINDS];
    _Atomic int64_t clock_seconds;
} *plan;
static char root[PATH_MAX];
static size_t root_length;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("BAD_HOST_PLAN"), *below = getenv("BAD_HOST_ROOT");
    if (path == NULL || below == NULL)
        return;
    int descriptor = open(path, O_RDWR | O_CLOEXEC);
    void *mapped = mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (mapped == MAP_FAILED)
        abort();
    root_length = (size_t)snprintf(root, sizeof root, "%s/", below);
    plan = mapped;
}

static int fails(enum kind kind, const char *path) {
    if (plan == NULL || strncmp(path, root, root_length) != 0)
        return 0;
    int64_t number = atomic_fetch_add(&plan->of[kind].calls, 1) - plan->of[kind].first;
    if (number < 0 || number >= plan->of[kind].failing)
        return 0;
    errno = (int)plan->of[kind].error;
    return 1;
}

static int fails_at(enum kind kind, int directory, const char *path) {
    char link[64], found[PATH_MAX];
    if (plan == NULL || path[0] == '/')
        return fails(kind, path);
    snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t length = directory == AT_FDCWD ? -1 : readlink(link, found, sizeof found - 2);
    if (length < 0)
        return 0;
    found[length] = '/'; /* a directory itself is below the root as well */
    found[length + 1] = '\0';
    return fails(kind, found);
}

static int fails_on(enum kind kind, int descriptor) { return fails_at(kind, descriptor, ""); }

/* INSTEAD(result, name, (parameters), (arguments), condition): a call that fails with -1 where the condition holds. */
#define INSTEAD(type, name, parameters, arguments, condition)                                                          \
    type name parameters {                                                                                             \
        static type(*real) parameters;                                                                                 \
        if (real == NULL)                                                                                              \
            real = (type(*) parameters)dlsym(RTLD_NEXT, #name);                                                        \
        if (condition)                                                                                                 \
            return -1;                                                                                                 \
        return real arguments;                                                                                         \
    }

INSTEAD(ssize_t, read, (int fd, void *to, size_t count), (fd, to, count), fails_on(READS, fd))
INSTEAD(ssize_t, pread, (int fd, void *to, size_t count, off_t at), (fd, to, count, at), fails_on(READS, fd))
INSTEAD(ssize_t, pread64, (int fd, void *to, size_t count, off64_t at), (fd, to, count, at), fails_on(READS, fd))
INSTEAD(ssize_t, preadv64, (int fd, const struct iovec *to, int count, off64_t at), (fd, to, count, at),
        fails_on(READS, fd))
INSTEAD(ssize_t, sendfile, (int to, int fd, off_t *at, size_t count), (to, fd, at, count), fails_on(READS, fd))
INSTEAD(ssize_t, sendfile64, (int to, int fd, off64_t *at, size_t count), (to, fd, at, count), fails_on(READS, fd))

INSTEAD(ssize_t, write, (int fd, const void *from, size_t count), (fd, from, count), fails_on(WRITES, fd))
INSTEAD(ssize_t, pwrite, (int fd, const void *from, size_t count, off_t at), (fd, from, count, at),
        fails_on(WRITES, fd))
INSTEAD(ssize_t, pwrite64, (int fd, const void *from, size_t count, off64_t at), (fd, from, count, at),
        fails_on(WRITES, fd))
INSTEAD(int, ftruncate, (int fd, off_t size), (fd, size), fails_on(WRITES, fd))
INSTEAD(int, ftruncate64, (int fd, off64_t size), (fd, size), fails_on(WRITES, fd))
INSTEAD(int, fchmod, (int fd, mode_t mode), (fd, mode), fails_on(WRITES, fd))
INSTEAD(int, rename, (const char *from, const char *to), (from, to), fails(WRITES, to))
INSTEAD(int, mkdir, (const char *path, mode_t mode), (path, mode), fails(WRITES, path))
INSTEAD(int, rmdir, (const char *path), (path), fails(WRITES, path))
INSTEAD(int, unlink, (const char *path), (path), fails(WRITES, path))
INSTEAD(int, unlinkat, (int fd, const char *path, int flags), (fd, path, flags), fails_at(WRITES, fd, path))

INSTEAD(int, fsync, (int fd), (fd), fails_on(FORCES, fd))
INSTEAD(int, fdatasync, (int fd), (fd), fails_on(FORCES, fd))
INSTEAD(int, syncfs, (int fd), (fd), fails_on(FORCES, fd))

/* Only making a file is a write: one that is there can be opened on a bad disk, its inode being in memory. */
#define OPENING(name)                                                                                                  \
    int name(const char *path, int flags, ...) {                                                                       \
        static int (*real)(const char *, int, ...);                                                                    \
        if (real == NULL)                                                                                              \
            real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name);                                           \
        if ((flags & O_CREAT) && access(path, F_OK) != 0 && fails(WRITES, path))                                       \
            return -1;                                                                                                 \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                        \
        va_end(rest);                                                                                                  \
        return real(path, flags, mode);                                                                                \
    }

OPENING(open)
OPENING(open64)

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (real == NULL)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (result == 0 && clock == CLOCK_REALTIME && plan != NULL)
        now->tv_sec += plan->clock_seconds;
    return result;
}
