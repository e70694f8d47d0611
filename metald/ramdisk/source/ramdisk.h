/* metald-ramdisk: the one program that metald calls inside its ramdisk.
 *
 * It does only what must happen on the machine itself: fetch over plain HTTP, move bytes between network and disk,
 * hash what the disk holds, and report facts. Every decision is made by metald.
 *
 * Paths can be moved by the environment (METALD_RUN, METALD_SYS, METALD_DEV, METALD_PROC), which is how the tests run it on a host.
 */
#ifndef METALD_RAMDISK_H
#define METALD_RAMDISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* 1 MiB: large enough that a request costs nothing, small enough that network, disk and hash overlap on small images. */
#define SLOT_SIZE (1u << 20)
#define SLOTS 8

struct sha512 {
    uint64_t state[8];
    uint64_t length;
    unsigned char block[128];
    size_t fill;
};

void sha512_begin(struct sha512 *hash);
void sha512_add(struct sha512 *hash, const void *data, size_t size);
void sha512_end(struct sha512 *hash, unsigned char digest[64]);

/* One HTTP response being read. `start` is the offset of its first byte in the resource, `length` how many bytes follow. */
struct http {
    int fd;
    int status;
    long long start;
    long long length;
    char head[8192];
    size_t have;
    size_t used;
    char error[256];
};

int http_open(struct http *http, const char *method, const char *url, const char *body, long long from);
ssize_t http_read(struct http *http, void *buffer, size_t size);
void http_close(struct http *http);

/* A source fills a buffer and returns the bytes it put there, or -1. A sink takes them and returns 0, or -1. */
typedef ssize_t (*source_fn)(void *context, char *buffer, size_t size, long long offset);
typedef int (*sink_fn)(void *context, const char *buffer, size_t size, long long offset);

int pump(source_fn source, void *source_context, sink_fn sink, void *sink_context, long long total);

/* Work that outlives the session which started it (`job.c`). The owner sets `name`, `phase`, `total`, `once` and
 * `followed` (seconds until the command ends although the work goes on), then calls job_run. */
struct job {
    const char *name, *phase, *kind;
    char directory[512];
    int lock;
    double started, published, followed;
    long long done, total;
    int retries;
    bool once;
    char error[512];
};

void job_publish(struct job *job, const char *state);
int job_fail(struct job *job, const char *kind, const char *format, ...);
int job_run(struct job *job, int (*work)(struct job *job));

const char *path_below(const char *variable, const char *standard, const char *format, ...);
int device_path(char *path, size_t size, const char *name);
bool read_text(const char *path, char *buffer, size_t size);
void print_json_text(const char *text);
int write_all(int fd, const void *data, size_t size);
int boot_url(char *url, size_t size, const char *name);
double seconds_now(void);
int reread_partitions(int fd);

int command_disks(int argc, char **argv);
int command_read(int argc, char **argv);
int command_patch(int argc, char **argv);
int command_zero(int argc, char **argv);
int command_flush(int argc, char **argv);
int command_loaders(int argc, char **argv);
int command_efivar(int argc, char **argv);
int command_image(int argc, char **argv);
int command_facts(int argc, char **argv);
int command_erasures(int argc, char **argv);
int command_erase(int argc, char **argv);

#endif
