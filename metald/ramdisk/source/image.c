/* `image`: pull bytes from metald onto a disk, once (`job.c`), and prove that the disk holds them. */
#include "ramdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/types.h>
#include <unistd.h>

struct image {
    struct job job;
    const char *disk, *what, *sha512;
    long long offset;
    double patience;
    char device[512];
    int fd, tail; /* O_DIRECT where the device can, and buffered for what is not aligned */
    struct http http;
    bool open;
    double silent_since;
    struct sha512 hash;
};

static int request(struct image *image, long long offset)
{
    char url[2048];
    if (boot_url(url, sizeof url, image->what))
        return job_fail(&image->job, "setup", "the ramdisk does not know where metald is");
    if (http_open(&image->http, "GET", url, NULL, offset))
        return job_fail(&image->job, "network", "%s", image->http.error);
    int status = image->http.status;
    if (status == 200 || status == 206) {
        if (image->http.length >= 0 && image->http.start + image->http.length != image->job.total)
            job_fail(&image->job, "size", "metald serves %lld bytes instead of %lld", image->http.start + image->http.length, image->job.total);
        else
            return 0;
    } else if (status >= 500 || status == 429) {
        job_fail(&image->job, "network", "metald answered %d", status);
    } else {
        job_fail(&image->job, "http", "metald answered %d", status);
    }
    http_close(&image->http);
    return -1;
}

/* Bytes from the network. A broken transfer goes on where it stopped, for as long as the patience lasts. */
static ssize_t from_network(void *context, char *buffer, size_t size, long long offset)
{
    struct image *image = context;
    for (unsigned delay = 100000;; delay = delay < 3000000 ? delay * 2 : 3000000) {
        if (!image->open && request(image, offset) == 0) {
            image->open = true;
            image->silent_since = seconds_now();
            for (long long skip = offset - image->http.start; skip > 0 && image->open;) {
                ssize_t got = http_read(&image->http, buffer, skip < (long long)size ? (size_t)skip : size);
                if (got <= 0)
                    http_close(&image->http), image->open = false;
                skip -= got;
            }
        }
        if (image->open) {
            size_t have = 0;
            ssize_t got = 1;
            while (have < size && (got = http_read(&image->http, buffer + have, size - have)) > 0)
                have += (size_t)got;
            if (have) {
                image->silent_since = seconds_now();
                if (have == size)
                    return (ssize_t)have;
                /* the rest of an aligned buffer is asked for again, so that writes stay aligned */
                have -= have % 4096;
            }
            job_fail(&image->job, "network", "%s", got < 0 ? image->http.error : "the connection was closed");
            http_close(&image->http);
            image->open = false;
            image->job.retries++;
            if (have)
                return (ssize_t)have;
        } else if (strcmp(image->job.kind, "network") != 0) {
            return -1;
        }
        if (seconds_now() - image->silent_since > image->patience)
            return -1;
        usleep(delay);
    }
}

static int to_disk(void *context, const char *buffer, size_t size, long long offset)
{
    struct image *image = context;
    size_t direct = (offset + image->offset) % 4096 ? 0 : size - size % 4096;
    for (size_t at = 0; at < size;) {
        bool aligned = at < direct;
        ssize_t put = pwrite(aligned ? image->fd : image->tail, buffer + at, aligned ? direct - at : size - at, image->offset + offset + (long long)at);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return job_fail(&image->job, "disk", "writing to %s at byte %lld failed: %s", image->disk, image->offset + offset + (long long)at, strerror(errno));
        at += (size_t)put;
    }
    image->job.done = offset + (long long)size;
    if (seconds_now() - image->job.published > 0.1)
        job_publish(&image->job, "running");
    return 0;
}

static ssize_t from_disk(void *context, char *buffer, size_t size, long long offset)
{
    struct image *image = context;
    bool aligned = (offset + image->offset) % 4096 == 0 && size % 4096 == 0;
    ssize_t got = pread(aligned ? image->fd : image->tail, buffer, size, image->offset + offset);
    if (got <= 0)
        job_fail(&image->job, "disk", "reading %s back at byte %lld failed: %s", image->disk, image->offset + offset, got ? strerror(errno) : "end of disk");
    return got;
}

static int to_hash(void *context, const char *buffer, size_t size, long long offset)
{
    struct image *image = context;
    sha512_add(&image->hash, buffer, size);
    image->job.done = offset + (long long)size;
    if (seconds_now() - image->job.published > 0.1)
        job_publish(&image->job, "running");
    return 0;
}

static int open_disk(struct image *image)
{
    if (device_path(image->device, sizeof image->device, image->disk))
        return job_fail(&image->job, "disk", "there is no disk %s", image->disk);
    image->tail = open(image->device, O_RDWR | O_CLOEXEC);
    if (image->tail < 0)
        return job_fail(&image->job, "disk", "cannot open %s: %s", image->disk, strerror(errno));
    if (flock(image->tail, LOCK_EX | LOCK_NB))
        return job_fail(&image->job, "disk", "%s is being written by another job", image->disk);
    image->fd = open(image->device, O_RDWR | O_CLOEXEC | O_DIRECT);
    if (image->fd < 0)
        image->fd = image->tail;
    return 0;
}

static int verify(struct image *image)
{
    unsigned char digest[64];
    char hex[129];
    image->job.phase = "verify";
    image->job.done = 0;
    job_publish(&image->job, "running");
    posix_fadvise(image->tail, 0, 0, POSIX_FADV_DONTNEED);
    sha512_begin(&image->hash);
    if (pump(from_disk, image, to_hash, image, image->job.total))
        return *image->job.error ? -1 : job_fail(&image->job, "memory", "not enough memory");
    sha512_end(&image->hash, digest);
    for (int i = 0; i < 64; i++)
        sprintf(hex + 2 * i, "%02x", digest[i]);
    if (strcmp(hex, image->sha512) != 0)
        return job_fail(&image->job, "mismatch", "%s holds SHA-512 %s instead of %s", image->disk, hex, image->sha512);
    return 0;
}

static int write_and_verify(struct job *job)
{
    struct image *image = (struct image *)job;
    image->silent_since = seconds_now();
    if (open_disk(image))
        return -1;
    if (pump(from_network, image, to_disk, image, image->job.total))
        return *image->job.error ? -1 : job_fail(&image->job, "memory", "not enough memory");
    *image->job.error = 0; /* of transfers that were taken up again */
    image->job.kind = "";
    if (fsync(image->tail))
        return job_fail(&image->job, "disk", "flushing %s failed: %s", image->disk, strerror(errno));
    if (verify(image))
        return -1;
    if (image->offset == 0)
        reread_partitions(image->tail);
    return 0;
}

int command_image(int argc, char **argv)
{
    struct image image = {.job = {.phase = "write", .followed = HUGE_VAL}, .patience = 900, .what = "image", .fd = -1, .tail = -1};
    static const struct option options[] = {
        {"job", required_argument, NULL, 'j'},    {"disk", required_argument, NULL, 'd'},   {"name", required_argument, NULL, 'n'},
        {"size", required_argument, NULL, 's'},   {"sha512", required_argument, NULL, 'h'}, {"offset", required_argument, NULL, 'o'},
        {"patience", required_argument, NULL, 'p'}, {0},
    };
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case 'j': image.job.name = optarg; break;
        case 'd': image.disk = optarg; break;
        case 'n': image.what = optarg; break;
        case 's': image.job.total = atoll(optarg); break;
        case 'h': image.sha512 = optarg; break;
        case 'o': image.offset = atoll(optarg); break;
        case 'p': image.patience = atof(optarg); break;
        default: return 2;
        }
    }
    if (!image.job.name || !image.disk || !image.sha512 || image.job.total <= 0 || image.offset < 0 || strchr(image.job.name, '/') ||
        strchr(image.what, '/')) {
        fprintf(stderr, "usage: image --job J --disk D --size N --sha512 HEX [--name image] [--offset N] [--patience S]\n");
        return 2;
    }
    return job_run(&image.job, write_and_verify);
}
