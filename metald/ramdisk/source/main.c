/* The commands by name, and the small things that they share. */
#include "ramdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* A path below a root that the environment may move. The result is valid until the next call. */
const char *path_below(const char *variable, const char *standard, const char *format, ...)
{
    static char path[1024];
    const char *root = getenv(variable);
    int size = snprintf(path, sizeof path, "%s/", root && *root ? root : standard);
    va_list arguments;
    va_start(arguments, format);
    if (size > 0 && (size_t)size < sizeof path)
        vsnprintf(path + size, sizeof path - (size_t)size, format, arguments);
    va_end(arguments);
    return path;
}

/* The device of a disk or partition given by its bare name. */
int device_path(char *path, size_t size, const char *name)
{
    struct stat status;
    if (!*name || *name == '.' || strchr(name, '/') || strlen(name) > 64)
        return -1;
    snprintf(path, size, "%s", path_below("METALD_DEV", "/dev", "%s", name));
    return stat(path, &status);
}

/* The text of a small file without the white space at its end. */
bool read_text(const char *path, char *buffer, size_t size)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    size_t got = fread(buffer, 1, size - 1, file);
    fclose(file);
    while (got && strchr(" \t\r\n", buffer[got - 1]))
        got--;
    buffer[got] = 0;
    return true;
}

void print_json_text(const char *text)
{
    putchar('"');
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\')
            printf("\\%c", *c);
        else if (*c < 32 || *c > 126)
            printf("\\u%04x", *c);
        else
            putchar(*c);
    }
    putchar('"');
}

int write_all(int fd, const void *data, size_t size)
{
    for (const char *at = data; size;) {
        ssize_t put = write(fd, at, size);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return -1;
        at += put, size -= (size_t)put;
    }
    return 0;
}

/* Where metald serves `name` to this boot: url, node and token are what the kernel's command line said. */
int boot_url(char *url, size_t size, const char *name)
{
    static const char *const parts[] = {"url", "node", "token"};
    char value[3][1024];
    for (int i = 0; i < 3; i++)
        if (!read_text(path_below("METALD_RUN", "/run/metald", "%s", parts[i]), value[i], sizeof value[i]) || !*value[i])
            return -1;
    size_t length = strlen(value[0]);
    while (length && value[0][length - 1] == '/')
        value[0][--length] = 0;
    return (size_t)snprintf(url, size, "%s/boot/%s/%s/%s", value[0], value[1], value[2], name) < size ? 0 : -1;
}

/* fetch NAME, or post NAME BODY: talk to metald's boot server; the body of the answer goes to the output. */
static int command_talk(int argc, char **argv)
{
    bool post = strcmp(argv[0], "post") == 0;
    static char buffer[65536];
    char url[2048];
    struct http http;
    if (argc != (post ? 3 : 2))
        return 2;
    if (boot_url(url, sizeof url, argv[1])) {
        fprintf(stderr, "the kernel's command line lacks metald.url, metald.node or metald.token\n");
        return 1;
    }
    if (http_open(&http, post ? "POST" : "GET", url, post ? argv[2] : NULL, 0)) {
        fprintf(stderr, "%s\n", http.error);
        return 1;
    }
    long long total = 0;
    ssize_t got = 0;
    bool good = http.status >= 200 && http.status < 300;
    if (!good)
        fprintf(stderr, "metald answered %d\n", http.status);
    while (good && (http.length < 0 || total < http.length) && (got = http_read(&http, buffer, sizeof buffer)) > 0) {
        total += got;
        good = write_all(1, buffer, (size_t)got) == 0;
    }
    if (good && (got < 0 || (http.length >= 0 && total != http.length))) {
        fprintf(stderr, "%s\n", got < 0 ? http.error : "the answer ended early");
        good = false;
    }
    http_close(&http);
    return good ? 0 : 1;
}

/* seed < SECRET: let the kernel's random numbers begin with bytes that only this boot knows.
 *
 * A machine without a random number instruction would make the first SSH handshake wait a second for entropy. The host
 * key that metald hands to this boot is as secret as the connection it protects, so its bytes are credited as entropy. */
static int command_seed(int argc, char **argv)
{
    (void)argc, (void)argv;
    struct {
        struct rand_pool_info info;
        unsigned char data[256];
    } pool;
    ssize_t got = read(0, pool.data, sizeof pool.data);
    int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
    if (got < 32 || fd < 0)
        return 1;
    pool.info.entropy_count = 256;
    pool.info.buf_size = (int)got;
    memmove(pool.info.buf, pool.data, (size_t)got);
    return ioctl(fd, RNDADDENTROPY, &pool) ? 1 : 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } commands[] = {
        {"fetch", command_talk},   {"post", command_talk},     {"disks", command_disks}, {"read", command_read},     {"patch", command_patch},
        {"zero", command_zero},    {"flush", command_flush},   {"image", command_image}, {"loaders", command_loaders}, {"efivar", command_efivar},
        {"seed", command_seed},    {"facts", command_facts},   {"erase", command_erase}, {"erasures", command_erasures},
    };
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "usage: metald-ramdisk fetch|post|disks|read|patch|zero|flush|image|loaders|efivar|seed|facts|erase|erasures ...\n");
    return 2;
}
