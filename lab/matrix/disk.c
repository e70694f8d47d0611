/* A disk that fails on order, for the files of an SQLite database: loaded into a daemon by LD_PRELOAD, commanded by `disk.py`.
 *
 * It stands between SQLite and the C library's file calls. On order, writes fail as on a full disk, syncs fail as on a broken
 * one, or the process dies inside a sync, when all is written and nothing is safe. It also keeps account of what a loss of power
 * may take: every 8 bytes of each file are safe (0), written since the last sync (1), or written before a sync that failed (2).
 * The kernel calls such pages clean, and a later sync does not write them: they stay unsafe until they are written again.
 *
 * Offsets in the shared file: commands and counters in the first page, then the account of the WAL, then that of the database.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FULL = 1, SYNC_FAILS = 2, DIES_IN_SYNC = 4 };
enum { OTHER, WAL, DATABASE, KINDS };

#define PAGE 4096
#define GRAINS (16u << 20)
#define MOST_FILES 65536

struct orders {
    volatile int32_t mode;
    volatile int32_t countdown; /* of syncs of the WAL until the one that it dies in */
    volatile int32_t writes, syncs, refused_writes, refused_syncs;
    volatile uint32_t low[3], high[3]; /* where the ones of each account lie */
};

static struct orders *orders;
static uint8_t *account[KINDS];
static uint8_t kind_of[MOST_FILES];

static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_ftruncate)(int, off_t);

__attribute__((constructor)) static void begin(void)
{
    real_open = dlsym(RTLD_NEXT, "open64");
    real_openat = dlsym(RTLD_NEXT, "openat64");
    real_close = dlsym(RTLD_NEXT, "close");
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    const char *path = getenv("MATRIX_DISK");
    if (!path)
        return;
    int fd = real_open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *map = mmap(NULL, PAGE + 2ul * GRAINS, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    real_close(fd);
    if (map == MAP_FAILED)
        return;
    orders = map;
    account[WAL] = (uint8_t *)map + PAGE;
    account[DATABASE] = account[WAL] + GRAINS;
}

static int ends(const char *path, const char *end)
{
    size_t a = strlen(path), b = strlen(end);
    return a >= b && !memcmp(path + a - b, end, b);
}

static int known(int fd, const char *path)
{
    if (orders && fd >= 0 && fd < MOST_FILES)
        kind_of[fd] = ends(path, ".sqlite-wal") ? WAL : ends(path, ".sqlite") ? DATABASE : OTHER;
    return fd;
}

static int kind(int fd)
{
    return orders && fd >= 0 && fd < MOST_FILES ? kind_of[fd] : OTHER;
}

static mode_t mode_of(int flags, va_list list)
{
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0;
}

int open(const char *path, int flags, ...)
{
    va_list list;
    va_start(list, flags);
    mode_t mode = mode_of(flags, list);
    va_end(list);
    return known(real_open(path, flags, mode), path);
}

int open64(const char *path, int flags, ...)
{
    va_list list;
    va_start(list, flags);
    mode_t mode = mode_of(flags, list);
    va_end(list);
    return known(real_open(path, flags, mode), path);
}

int openat(int at, const char *path, int flags, ...)
{
    va_list list;
    va_start(list, flags);
    mode_t mode = mode_of(flags, list);
    va_end(list);
    return known(real_openat(at, path, flags, mode), path);
}

int openat64(int at, const char *path, int flags, ...)
{
    va_list list;
    va_start(list, flags);
    mode_t mode = mode_of(flags, list);
    va_end(list);
    return known(real_openat(at, path, flags, mode), path);
}

int close(int fd)
{
    if (kind(fd))
        kind_of[fd] = OTHER;
    return real_close(fd);
}

/* Note what was written at an offset. What lies beyond the account is not torn. */
static ssize_t written(int fd, off_t offset, ssize_t size)
{
    if (size > 0) {
        uint64_t first = offset / 8, last = (offset + size - 1) / 8;
        int which = kind(fd);
        if (last < GRAINS) {
            memset(account[which] + first, 1, last - first + 1);
            if (orders->high[which] == 0 || first < orders->low[which])
                orders->low[which] = first;
            if (last >= orders->high[which])
                orders->high[which] = last + 1;
        }
        orders->writes++;
    }
    return size;
}

static int refused(void)
{
    if (!(orders->mode & FULL))
        return 0;
    orders->refused_writes++;
    errno = ENOSPC;
    return 1;
}

ssize_t write(int fd, const void *data, size_t size)
{
    if (!kind(fd))
        return real_write(fd, data, size);
    if (refused())
        return -1;
    off_t at = lseek(fd, 0, SEEK_CUR);
    return written(fd, at, real_write(fd, data, size));
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset)
{
    if (!kind(fd))
        return real_pwrite(fd, data, size, offset);
    return refused() ? -1 : written(fd, offset, real_pwrite(fd, data, size, offset));
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    return pwrite64(fd, data, size, offset);
}

/* Mark everything that was written of a file as `now`: safe, or given up by the kernel. */
static void settle(int which, uint8_t now)
{
    uint8_t *at = account[which] + orders->low[which], *end = account[which] + orders->high[which];
    while (at < end && (at = memchr(at, 1, end - at)))
        *at++ = now;
    orders->low[which] = orders->high[which] = 0;
}

static int synced(int fd, int (*sync)(int))
{
    int which = kind(fd);
    if (!which)
        return sync(fd);
    if (which == WAL && orders->mode & DIES_IN_SYNC && --orders->countdown <= 0)
        kill(getpid(), SIGKILL);
    if (orders->mode & SYNC_FAILS) {
        orders->refused_syncs++;
        settle(which, 2);
        errno = EIO;
        return -1;
    }
    int result = sync(fd);
    if (!result) {
        orders->syncs++;
        settle(which, 0);
    }
    return result;
}

int fsync(int fd) { return synced(fd, real_fsync); }

int fdatasync(int fd) { return synced(fd, real_fdatasync); }

int ftruncate64(int fd, off_t size)
{
    int which = kind(fd), result = real_ftruncate(fd, size);
    if (which && !result && (uint64_t)size / 8 < GRAINS)
        memset(account[which] + size / 8, 0, GRAINS - size / 8);
    return result;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }
