/* `image`: pull bytes from metald onto a disk, once, and prove that the disk holds them.
 *
 * The writer is a process of its own, detached from the session that started it, and keeps its state in
 * RUN/jobs/<job>/state. The command follows that state line by line until the end; called again with the same job it
 * follows the running writer, or reports what was done, and writes again only when the last try failed. So metald may
 * lose the connection or die at any moment and the disk is still written once.
 */
#include "ramdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define STATE_SIZE 1024

struct job {
    const char *name, *disk, *what, *sha512;
    long long size, offset;
    double patience;
    char directory[512];
    int lock;
    /* of the writer */
    char device[512];
    int fd, tail; /* O_DIRECT where the device can, and buffered for what is not aligned */
    struct http http;
    bool open;
    int retries;
    double started, published, silent_since;
    const char *phase;
    long long done;
    struct sha512 hash;
    char error[512];
    const char *kind;
};

static void publish(struct job *job, const char *state)
{
    char path[600], text[STATE_SIZE];
    snprintf(path, sizeof path, "%s/state.new", job->directory);
    int size = snprintf(text, sizeof text,
                        "\"state\":\"%s\",\"phase\":\"%s\",\"bytes\":%lld,\"total\":%lld,\"seconds\":%.2f,\"retries\":%d,\"kind\":\"%s\"", state,
                        job->phase, job->done, job->size, seconds_now() - job->started, job->retries, job->kind);
    FILE *file = fopen(path, "we");
    if (!file)
        return;
    fwrite(text, 1, (size_t)size, file);
    fprintf(file, ",\"error\":\"");
    for (const char *c = job->error; *c; c++)
        fputc(*c == '"' || *c == '\\' || (unsigned char)*c < 32 ? ' ' : *c, file);
    fprintf(file, "\"");
    if (fclose(file) == 0) {
        char final[600];
        snprintf(final, sizeof final, "%s/state", job->directory);
        rename(path, final);
    }
    job->published = seconds_now();
}

static int fail(struct job *job, const char *kind, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(job->error, sizeof job->error, format, arguments);
    va_end(arguments);
    job->kind = kind;
    return -1;
}

static int request(struct job *job, long long offset)
{
    char url[2048];
    if (boot_url(url, sizeof url, job->what))
        return fail(job, "setup", "the ramdisk does not know where metald is");
    if (http_open(&job->http, "GET", url, NULL, offset))
        return fail(job, "network", "%s", job->http.error);
    int status = job->http.status;
    if (status == 200 || status == 206) {
        if (job->http.length >= 0 && job->http.start + job->http.length != job->size)
            fail(job, "size", "metald serves %lld bytes instead of %lld", job->http.start + job->http.length, job->size);
        else
            return 0;
    } else if (status >= 500 || status == 429) {
        fail(job, "network", "metald answered %d", status);
    } else {
        fail(job, "http", "metald answered %d", status);
    }
    http_close(&job->http);
    return -1;
}

/* Bytes from the network. A broken transfer goes on where it stopped, for as long as the patience lasts. */
static ssize_t from_network(void *context, char *buffer, size_t size, long long offset)
{
    struct job *job = context;
    for (unsigned delay = 100000;; delay = delay < 3000000 ? delay * 2 : 3000000) {
        if (!job->open && request(job, offset) == 0) {
            job->open = true;
            job->silent_since = seconds_now();
            for (long long skip = offset - job->http.start; skip > 0 && job->open;) {
                ssize_t got = http_read(&job->http, buffer, skip < (long long)size ? (size_t)skip : size);
                if (got <= 0)
                    http_close(&job->http), job->open = false;
                skip -= got;
            }
        }
        if (job->open) {
            size_t have = 0;
            ssize_t got = 1;
            while (have < size && (got = http_read(&job->http, buffer + have, size - have)) > 0)
                have += (size_t)got;
            if (have) {
                job->silent_since = seconds_now();
                if (have == size)
                    return (ssize_t)have;
                /* the rest of an aligned buffer is asked for again, so that writes stay aligned */
                have -= have % 4096;
            }
            fail(job, "network", "%s", got < 0 ? job->http.error : "the connection was closed");
            http_close(&job->http);
            job->open = false;
            job->retries++;
            if (have)
                return (ssize_t)have;
        } else if (strcmp(job->kind, "network") != 0) {
            return -1;
        }
        if (seconds_now() - job->silent_since > job->patience)
            return -1;
        usleep(delay);
    }
}

static int to_disk(void *context, const char *buffer, size_t size, long long offset)
{
    struct job *job = context;
    size_t direct = (offset + job->offset) % 4096 ? 0 : size - size % 4096;
    for (size_t at = 0; at < size;) {
        bool aligned = at < direct;
        ssize_t put = pwrite(aligned ? job->fd : job->tail, buffer + at, aligned ? direct - at : size - at, job->offset + offset + (long long)at);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return fail(job, "disk", "writing to %s at byte %lld failed: %s", job->disk, job->offset + offset + (long long)at, strerror(errno));
        at += (size_t)put;
    }
    job->done = offset + (long long)size;
    if (seconds_now() - job->published > 0.1)
        publish(job, "running");
    return 0;
}

static ssize_t from_disk(void *context, char *buffer, size_t size, long long offset)
{
    struct job *job = context;
    bool aligned = (offset + job->offset) % 4096 == 0 && size % 4096 == 0;
    ssize_t got = pread(aligned ? job->fd : job->tail, buffer, size, job->offset + offset);
    if (got <= 0)
        fail(job, "disk", "reading %s back at byte %lld failed: %s", job->disk, job->offset + offset, got ? strerror(errno) : "end of disk");
    return got;
}

static int to_hash(void *context, const char *buffer, size_t size, long long offset)
{
    struct job *job = context;
    sha512_add(&job->hash, buffer, size);
    job->done = offset + (long long)size;
    if (seconds_now() - job->published > 0.1)
        publish(job, "running");
    return 0;
}

static int open_disk(struct job *job)
{
    if (device_path(job->device, sizeof job->device, job->disk))
        return fail(job, "disk", "there is no disk %s", job->disk);
    job->tail = open(job->device, O_RDWR | O_CLOEXEC);
    if (job->tail < 0)
        return fail(job, "disk", "cannot open %s: %s", job->disk, strerror(errno));
    if (flock(job->tail, LOCK_EX | LOCK_NB))
        return fail(job, "disk", "%s is being written by another job", job->disk);
    job->fd = open(job->device, O_RDWR | O_CLOEXEC | O_DIRECT);
    if (job->fd < 0)
        job->fd = job->tail;
    return 0;
}

static int verify(struct job *job)
{
    unsigned char digest[64];
    char hex[129];
    job->phase = "verify";
    job->done = 0;
    publish(job, "running");
    posix_fadvise(job->tail, 0, 0, POSIX_FADV_DONTNEED);
    sha512_begin(&job->hash);
    if (pump(from_disk, job, to_hash, job, job->size))
        return *job->error ? -1 : fail(job, "memory", "not enough memory");
    sha512_end(&job->hash, digest);
    for (int i = 0; i < 64; i++)
        sprintf(hex + 2 * i, "%02x", digest[i]);
    if (strcmp(hex, job->sha512) != 0)
        return fail(job, "mismatch", "%s holds SHA-512 %s instead of %s", job->disk, hex, job->sha512);
    return 0;
}

static int write_and_verify(struct job *job)
{
    job->silent_since = seconds_now();
    if (open_disk(job))
        return -1;
    if (pump(from_network, job, to_disk, job, job->size))
        return *job->error ? -1 : fail(job, "memory", "not enough memory");
    *job->error = 0; /* of transfers that were taken up again */
    job->kind = "";
    if (fsync(job->tail))
        return fail(job, "disk", "flushing %s failed: %s", job->disk, strerror(errno));
    if (verify(job))
        return -1;
    if (job->offset == 0)
        reread_partitions(job->tail);
    return 0;
}

static void detach(void)
{
    setsid();
    signal(SIGHUP, SIG_IGN);
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd <= 2; fd++)
        dup2(null, fd);
    if (null > 2)
        close(null);
}

static bool finished(const char *state)
{
    return strstr(state, "\"state\":\"done\"") != NULL;
}

/* Start the writer unless it runs or is done. Returns -1 when nothing can be started. */
static int start(struct job *job)
{
    char path[600], state[STATE_SIZE] = "";
    snprintf(path, sizeof path, "%s/lock", job->directory);
    job->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (job->lock < 0)
        return -1;
    if (flock(job->lock, LOCK_EX | LOCK_NB))
        return 0;
    snprintf(path, sizeof path, "%s/state", job->directory);
    read_text(path, state, sizeof state);
    if (finished(state)) {
        flock(job->lock, LOCK_UN);
        return 0;
    }
    publish(job, "running");
    pid_t child = fork();
    if (child < 0)
        return -1;
    if (child == 0) {
        detach();
        int wrong = write_and_verify(job);
        publish(job, wrong ? "failed" : "done");
        _exit(wrong ? 1 : 0);
    }
    close(job->lock); /* the lock lives on in the writer; a descriptor of our own asks whether it does */
    snprintf(path, sizeof path, "%s/lock", job->directory);
    job->lock = open(path, O_RDWR | O_CLOEXEC);
    return job->lock < 0 ? -1 : 0;
}

static int follow(struct job *job)
{
    char path[600], state[STATE_SIZE], last[STATE_SIZE] = "";
    double printed = 0;
    snprintf(path, sizeof path, "%s/state", job->directory);
    for (;;) {
        bool alone = flock(job->lock, LOCK_EX | LOCK_NB) == 0; /* asked first: the state read after it is the last one */
        if (alone)
            flock(job->lock, LOCK_UN);
        *state = 0;
        read_text(path, state, sizeof state);
        if (strcmp(state, last) != 0 || seconds_now() - printed >= 1 || alone) {
            bool died = alone && strstr(state, "\"state\":\"running\"");
            printf("{%s}\n", died ? "\"state\":\"failed\",\"kind\":\"died\",\"error\":\"the writer was killed\"" : state);
            fflush(stdout);
            strcpy(last, state);
            printed = seconds_now();
        }
        if (alone)
            return finished(state) ? 0 : 1;
        usleep(50000);
    }
}

int command_image(int argc, char **argv)
{
    struct job job = {.patience = 900, .phase = "write", .kind = "", .what = "image", .fd = -1, .tail = -1, .started = seconds_now()};
    static const struct option options[] = {
        {"job", required_argument, NULL, 'j'},    {"disk", required_argument, NULL, 'd'},   {"name", required_argument, NULL, 'n'},
        {"size", required_argument, NULL, 's'},   {"sha512", required_argument, NULL, 'h'}, {"offset", required_argument, NULL, 'o'},
        {"patience", required_argument, NULL, 'p'}, {0},
    };
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case 'j': job.name = optarg; break;
        case 'd': job.disk = optarg; break;
        case 'n': job.what = optarg; break;
        case 's': job.size = atoll(optarg); break;
        case 'h': job.sha512 = optarg; break;
        case 'o': job.offset = atoll(optarg); break;
        case 'p': job.patience = atof(optarg); break;
        default: return 2;
        }
    }
    if (!job.name || !job.disk || !job.sha512 || job.size <= 0 || job.offset < 0 || strchr(job.name, '/') || strchr(job.what, '/')) {
        fprintf(stderr, "usage: image --job J --disk D --size N --sha512 HEX [--name image] [--offset N] [--patience S]\n");
        return 2;
    }
    snprintf(job.directory, sizeof job.directory, "%s", path_below("METALD_RUN", "/run/metald", "jobs"));
    mkdir(job.directory, 0700);
    snprintf(job.directory, sizeof job.directory, "%s", path_below("METALD_RUN", "/run/metald", "jobs/%.200s", job.name));
    if ((mkdir(job.directory, 0700) && errno != EEXIST) || start(&job)) {
        fprintf(stderr, "cannot start the job in %s: %s\n", job.directory, strerror(errno));
        return 1;
    }
    return follow(&job);
}
